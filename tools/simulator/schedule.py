"""A schedule of one who knows the whole day: when containers come up, and how much each gets."""

from dataclasses import dataclass, replace
from functools import partial
from math import inf

from dispatcher.burst.view import Bundle, Rules
from tools.simulator.cloud import SimCall
from tools.simulator.local import SimJob
from tools.simulator.scene import Caps, Outcome, Trace
from tools.simulator.world import World

NO_CAPS = Caps(inf, inf)
NO_LIMIT_S = 86400.0
PATIENCE_S = 1200.0  # of a run for which no job waits
LOOK_S = 2.0  # while a container is warm and nothing is there for it


@dataclass(frozen=True)
class Run:
    """One container's: it is handed its first bundle at `start_s`, and the next ones so that each is uploaded when it is free."""

    start_s: float
    audio_s: float
    longest_s: float = NO_LIMIT_S  # longer jobs stay
    spared_s: float = 0.0  # jobs that have not waited for so long stay: the local GPUs may yet start them


Schedule = tuple[Run, ...]


class Scheduled(World):
    """The same world, in which a schedule is followed instead of a policy."""

    def __init__(self, trace: Trace, schedule: Schedule, rules: Rules) -> None:
        super().__init__(trace, None, rules, NO_CAPS)
        self._rest_of: dict[int, Run] = {}
        self._cloud.begun = self._is_taken
        for run in schedule:
            self._clock.at(run.start_s, partial(self._begin, run))

    def _begin(self, run: Run) -> None:
        """With the first job that waits."""
        cold_s = self._trace.modal.cold_start_median_s
        if self._next(run, cold_s):
            self._cloud.wanted += 1
            self._send(run, cold_s, self._clock.now_s)
        elif self._clock.now_s < run.start_s + PATIENCE_S:
            self._clock.at(self._clock.now_s + LOOK_S, partial(self._begin, run))

    def _is_taken(self, call: SimCall, free_s: float) -> None:
        if (run := self._rest_of.pop(id(call), None)) is None:
            return
        upload_s = self._upload_s(sum(job.audio_s for job in self._next(run, max(0.0, free_s - self._clock.now_s))))
        self._clock.at(max(self._clock.now_s, free_s - upload_s), partial(self._send, run, 0.0, free_s + self._rules.scale_down_s))

    def _send(self, run: Run, start_s: float, until_s: float) -> None:
        """Looks for jobs for as long as the container would stay warm."""
        now_s, jobs = self._clock.now_s, self._next(run, start_s)
        if jobs:
            audio_s = sum(job.audio_s for job in jobs)
            for job in jobs:
                del self._pending[job.id]
            call = self._cloud.hand_over(Bundle(tuple(job.id for job in jobs), audio_s, 0.0, False, ""), jobs)
            self._rest_of[id(call)] = replace(run, audio_s=run.audio_s - audio_s)
        elif run.audio_s > 0 and now_s + LOOK_S < until_s:
            self._clock.at(now_s + LOOK_S, partial(self._send, run, start_s, until_s))
        else:
            self._cloud.wanted -= 1

    def _next(self, run: Run, start_s: float) -> list[SimJob]:
        """The oldest of those that it still starts in time, and that fit."""
        jobs, audio_s, now_s = list[SimJob](), 0.0, self._clock.now_s
        for job in self._pending.values():
            if audio_s >= run.audio_s or len(jobs) == self._rules.bundle_jobs_max or audio_s >= self._rules.bundle_audio_max_s:
                break
            if now_s - job.at_s < run.spared_s:
                break
            fits = not jobs or audio_s + job.audio_s <= self._rules.bundle_audio_max_s
            start_wait_s = now_s + start_s + self._upload_s(audio_s + job.audio_s) - job.at_s
            if fits and job.audio_s <= run.longest_s and start_wait_s <= self._rules.target_wait_s:
                jobs.append(job)
                audio_s += job.audio_s
        return jobs

    def _upload_s(self, audio_s: float) -> float:
        return audio_s * self._trace.modal.bytes_per_audio_s / self._trace.modal.upload_bytes_per_s


def followed(trace: Trace, schedule: Schedule, rules: Rules) -> Outcome:
    return Scheduled(trace, schedule, rules).run()
