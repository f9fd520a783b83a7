"""Ends the process when a job in it hangs: a thread cannot be killed, and its job would keep its lease and its place for ever."""

import faulthandler
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Self

from core.log import logger
from core.settings import Settings
from worker.leases import Held, Leases
from worker.runner import JobRunner

log = logger("worker.watchdog")
PERIOD_S = 1.0
LONGEST_PERIOD_S = 5.0  # what a look counts at most: a process that was frozen, or kept from running, has not hung
GIL_PATIENCE_S = 60.0  # and no less: a library that keeps the GIL keeps us from looking
STDERR = 2  # sys.stderr is Celery's
RECENT = 20  # jobs, of which the slowest tells the speed
# Longer than the slowest step: on a GPU a batch of 64 windows that all loop, on the ladder of temperatures; on a CPU a batch of 16
# with large-v2, which two slow cores hear at a tenth of real time or less, with as many jobs again before it.
STALLED_AFTER_S = {"cuda": 1800.0, "cpu": 14400.0}


@dataclass(frozen=True)
class Bounds:
    """What no job passes that is well: `floor_s` and `factor` times what its audio takes at the measured speed, in its share of the
    process; `stalled_after_s` without a step."""

    stalled_after_s: float
    floor_s: float
    factor: float

    @classmethod
    def of(cls, settings: Settings) -> Self:
        stalled_after_s = settings.stalled_after_s or STALLED_AFTER_S[settings.device]
        return cls(stalled_after_s, settings.deadline_floor_s, settings.deadline_factor)


@dataclass
class _Watched:
    steps: int = 0
    silent_s: float = 0.0
    share_s: float = 0.0  # of the process' time: with three others in flight a second is a quarter


class Watchdog:
    """A thread that asks nobody but this process, so that neither Redis nor a frozen heartbeat keeps it from looking.

    The job that hangs is left to the process' successor, which counts its loss; the others are handed back before. While Redis is
    away nothing counts, and nothing ends: jobs wait for it then.
    """

    def __init__(self, leases: Leases, runner: JobRunner, bounds: Bounds, end: Callable[[], object]) -> None:
        self._leases, self._runner, self._bounds, self._end = leases, runner, bounds, end
        self._watched: dict[Held, _Watched] = {}
        self._speeds: deque[float] = deque(maxlen=RECENT)  # audio seconds per second of its share, of jobs that ended well here
        self._hanging: Held | None = None

    def start(self) -> None:
        threading.Thread(target=self._keep_looking, name="watchdog", daemon=True).start()

    def look(self, passed_s: float) -> None:
        """`passed_s` since the last look."""
        if self._leases.is_redis_away:
            return
        jobs = self._leases.in_flight()
        self._count(jobs, min(passed_s, LONGEST_PERIOD_S))
        if self._hanging is None:
            self._hanging = next((held for held in jobs if self._why(held)), None)
            if self._hanging:
                self._say(self._hanging)
        if self._hanging:
            self._end_process(self._hanging)

    def _count(self, jobs: tuple[Held, ...], passed_s: float) -> None:
        for held in self._watched.keys() - set(jobs):
            ended = self._watched.pop(held)
            if held.progress >= 1.0 and ended.share_s:
                self._speeds.append(held.job.work_s / ended.share_s)
        for held in jobs:
            watched = self._watched.setdefault(held, _Watched())
            watched.silent_s = watched.silent_s + passed_s if held.steps == watched.steps else 0.0
            watched.share_s += passed_s / len(jobs)
            watched.steps = held.steps

    def _why(self, held: Held) -> str | None:
        """It is to be ended, or None."""
        watched = self._watched[held]
        if watched.silent_s > self._bounds.stalled_after_s:
            return f"no progress for {watched.silent_s:.0f} s, more than the {self._bounds.stalled_after_s:.0f} s that a step may take"
        if not self._speeds:
            return None
        deadline_s = self._bounds.floor_s + self._bounds.factor * held.job.work_s / min(self._speeds)
        if watched.share_s <= deadline_s:
            return None
        return f"{watched.share_s:.0f} s of its own, more than the {deadline_s:.0f} s that {held.job.work_s:.0f} s of audio may take here"

    def _say(self, held: Held) -> None:
        at = {"job_id": held.job.id, "attempt": held.job.attempt, "stage": held.stage, "seconds": round(held.age_s, 1)}
        log.critical("job hangs: ending this process, its other jobs are handed back", **at, why=self._why(held))
        faulthandler.dump_traceback(STDERR)  # where each thread stands

    def _end_process(self, hanging: Held) -> None:
        """Unless Redis went away just now: the next look tries again."""
        self._runner.stop_claiming()
        if self._runner.release_all(keep=hanging):
            self._end()

    def _keep_looking(self) -> None:
        pause, last = threading.Event(), monotonic()
        while not pause.wait(PERIOD_S):
            # Of C, for the case that no thread of Python's runs any more.
            faulthandler.dump_traceback_later(max(self._bounds.stalled_after_s, GIL_PATIENCE_S), exit=True, file=STDERR)
            now = monotonic()
            self.look(now - last)
            last = now
