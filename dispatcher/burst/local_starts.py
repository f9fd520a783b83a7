"""When the local GPUs would start pending jobs: the queue played forward in the order of claims."""

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Self

from dispatcher.burst.view import Gpu, Local, PendingJob


class LocalStarts:
    """Jobs are taken in the order of claims; each waits for those before it, as the store's claim does."""

    def __init__(self, local: Local) -> None:
        self._ahead = [tuple(_Share.of(gpu, local) for gpu in local.gpus)] if local.real_time_factor and local.gpus else []

    def place(self, job: PendingJob) -> "Place":
        """Where the next job would go; it is not taken yet. Never when no GPU is fit or their speed is unknown."""
        for gpus in self._from_now_on():
            free = [gpu for gpu in gpus if gpu.has_room(job)]
            if free:
                first = min(free, key=lambda gpu: gpu.now_s)
                return Place(job, first.now_s, (first, *(gpu for gpu in gpus if gpu is not first)))
        return Place(job, inf, ())

    def take(self, place: "Place") -> None:
        if place.gpus:
            first, *others = (gpu.at(place.start_s) for gpu in place.gpus)  # nothing starts before the job ahead of it
            first.take(place.job)
            self._ahead = [(first, *others)]

    def _from_now_on(self) -> "Iterator[tuple[_Share, ...]]":
        """The GPUs as they are, and after each job that ends; kept until one is taken, since many are only looked at."""
        for step in count():
            if not self._ahead:
                return
            if step == len(self._ahead):
                self._ahead.append(_after_next_end(self._ahead[-1]))
            yield self._ahead[step]


@dataclass(frozen=True)
class Place:
    job: PendingJob
    start_s: float
    gpus: "tuple[_Share, ...]"  # as they would be then; the one that takes it comes first


def _after_next_end(gpus: "tuple[_Share, ...]") -> "tuple[_Share, ...]":
    first = min(gpus, key=_Share.next_end_s)
    return tuple(gpu.after_next_end() if gpu is first else gpu for gpu in gpus)


class _Share:
    """One GPU, whose jobs share it in equal parts as the batcher deals it out: `_dealt_s` of audio went to each of them so far."""

    def __init__(self, local: Local, ends: list[tuple[float, float]], *, is_alone: bool) -> None:
        self._local, self._ends, self._is_alone = local, ends, is_alone
        self.now_s, self._dealt_s, self._held_audio_s = 0.0, 0.0, sum(audio_s for _, audio_s in ends)

    @classmethod
    def of(cls, gpu: Gpu, local: Local) -> Self:
        ends = [(job.left_audio_s, job.audio_s) for job in gpu.running]
        heapify(ends)
        return cls(local, ends, is_alone=gpu.is_alone)

    def _copy(self) -> "_Share":
        twin = _Share.__new__(_Share)
        twin.__dict__.update(self.__dict__, _ends=self._ends.copy())
        return twin

    def has_room(self, job: PendingJob) -> bool:
        if not self._ends:
            return True
        fits = self._held_audio_s + job.audio_s <= self._local.audio_in_flight_max_s and len(self._ends) < self._local.jobs_in_flight_max
        return fits and not self._is_alone and not job.is_suspect

    def take(self, job: PendingJob) -> None:
        self._is_alone = job.is_suspect
        self._held_audio_s += job.audio_s
        heappush(self._ends, (self._dealt_s + job.audio_s, job.audio_s))

    def next_end_s(self) -> float:
        if not self._ends:
            return float("inf")
        return self.now_s + (self._ends[0][0] - self._dealt_s) * len(self._ends) / (self._local.real_time_factor or 1.0)

    def after_next_end(self) -> "_Share":
        later = self._copy()
        later._end_one()
        return later

    def at(self, to_s: float) -> "_Share":
        later = self._copy()
        while later._ends and later.next_end_s() <= to_s:
            later._end_one()
        if to_s > later.now_s:
            later._dealt_s += (to_s - later.now_s) * (self._local.real_time_factor or 1.0) / max(len(later._ends), 1)
            later.now_s = to_s
        return later

    def _end_one(self) -> None:
        self.now_s = self.next_end_s()
        self._dealt_s, audio_s = heappop(self._ends)
        self._held_audio_s -= audio_s
