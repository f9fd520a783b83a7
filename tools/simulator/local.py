"""The local GPU of the simulation."""

from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf

from dispatcher.burst.view import Gpu, RunningJob
from tools.simulator.scene import LocalBox


@dataclass
class SimJob:
    id: str
    at_s: float
    audio_s: float
    start_s: float = inf


class SimGpu:
    """Deals its speed out to its jobs in equal parts."""

    def __init__(self, box: LocalBox) -> None:
        self._box, self._dealt_s, self._at_s, self._held_audio_s = box, 0.0, 0.0, 0.0
        self._ends: list[tuple[float, str, SimJob]] = []
        self.busy_s, self._done_audio_s = 0.0, 0.0

    def go_to(self, now_s: float) -> None:
        if self._ends:
            self.busy_s += now_s - self._at_s
            self._dealt_s += (now_s - self._at_s) * self._box.real_time_factor / len(self._ends)
        self._at_s = now_s

    def has_room(self, job: SimJob) -> bool:
        if not self._ends:
            return True
        return len(self._ends) < self._box.jobs_in_flight_max and self._held_audio_s + job.audio_s <= self._box.audio_in_flight_max_s

    def take(self, job: SimJob) -> None:
        heappush(self._ends, (self._dealt_s + job.audio_s + self._box.job_overhead_audio_s, job.id, job))
        self._held_audio_s += job.audio_s

    def next_end_s(self) -> float:
        if not self._ends:
            return inf
        return self._at_s + max(0.0, self._ends[0][0] - self._dealt_s) * len(self._ends) / self._box.real_time_factor

    def end_one(self) -> None:
        _, _, job = heappop(self._ends)
        self._held_audio_s -= job.audio_s
        self._done_audio_s += job.audio_s

    def die(self) -> list[SimJob]:
        """What it held: its work is lost."""
        held = [job for _, _, job in self._ends]
        self._ends, self._held_audio_s = [], 0.0
        return held

    def jobs(self) -> int:
        return len(self._ends)

    def worked_audio_s(self) -> float:
        return self._done_audio_s + sum(max(0.0, job.audio_s - (end_s - self._dealt_s)) for end_s, _, job in self._ends)

    def seen(self) -> Gpu:
        return Gpu(tuple(RunningJob(job.audio_s, max(0.0, end_s - self._dealt_s)) for end_s, _, job in self._ends))
