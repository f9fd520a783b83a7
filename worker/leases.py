"""The jobs that this worker holds, and the thread that keeps them its own."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from time import monotonic

from core.crash_points import passed
from core.errors import JobCancelled, LeaseLost, StoreUnavailable
from core.job import Job, Stage
from core.job_store import Beat, JobStore, Runner, Verdict
from core.log import logger

log = logger("worker.leases")
FIRST_MOMENTS_S = 2.0  # many a job is over in them


class Held:
    """One job in flight: where it is, as its stages report it, and whether it is still ours, as the record says."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.stage: Stage | None = None
        self.progress = 0.0
        self.stages_s: dict[str, float] = {}  # how long those took that the engine does not time
        self.steps = 0  # that the work is known to have taken; the watchdog sees by it that it goes on
        self._began_at = monotonic()
        self._verdict = Verdict.HELD

    def report(self, stage: Stage, progress: float) -> None:
        """`progress` of the whole job, 0 to 1."""
        is_new, self.stage, self.progress = stage != self.stage, stage, progress
        self.steps += 1
        if is_new:
            passed("stage", stage)

    def hear(self, verdict: Verdict) -> None:
        self._verdict = verdict

    def check(self) -> None:
        """To be called between batches: raises `JobCancelled` or `LeaseLost` when the work is to be dropped."""
        if self._verdict == Verdict.CANCEL:
            raise JobCancelled(self.job.id)
        if self._verdict == Verdict.LOST:
            raise LeaseLost(self.job.id)

    def check_on(self) -> None:
        """As `check`, from work that cannot hang, being bounded by itself: it counts as a step."""
        self.steps += 1
        self.check()

    @property
    def age_s(self) -> float:
        return monotonic() - self._began_at

    def remaining_s(self) -> float:
        """Until it is done, if it goes on as it did; 0 in its first moments, which say nothing."""
        spent_s = self.age_s
        if spent_s < FIRST_MOMENTS_S or self.progress >= 1.0:
            return 0.0
        return spent_s * (1 - self.progress) / self.progress if self.progress else inf

    def beat(self) -> Beat:
        return Beat(self.job.id, self.job.attempt, self.stage, self.progress)


@dataclass(frozen=True)
class Rhythm:
    """`news_s`: how often progress is told and cancels are heard. `heartbeat_s`: how often leases of `lease_s` are renewed."""

    lease_s: float
    heartbeat_s: float
    news_s: float = 0.5


class Leases:
    """One call to Redis per beat for all jobs together; it writes only what is new."""

    def __init__(self, store: JobStore, runner: Runner, rhythm: Rhythm, on_news: Callable[[], None]) -> None:
        self.runner = runner
        self.is_redis_away = False  # as the last beat found it
        self._store, self._rhythm, self._on_news = store, rhythm, on_news
        self._held: list[Held] = []  # by attempt, not by job: one that lost its lease may still run beside its successor
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def hold(self, job: Job) -> Held:
        """To be let go of with `drop`, however the attempt ends."""
        held = Held(job)
        with self._lock:
            self._held.append(held)
        return held

    def drop(self, held: Held) -> None:
        with self._lock:
            self._held.remove(held)

    def in_flight(self) -> tuple[Held, ...]:
        with self._lock:
            return tuple(self._held)

    def audio_in_flight_s(self) -> float:
        return sum(held.job.work_s for held in self.in_flight())

    def beat(self, *, renew: bool) -> None:
        """Raises `StoreUnavailable`; the leases stand still with Redis, so nothing is lost by waiting for the next beat."""
        jobs = self.in_flight()
        verdicts = self._store.beat([held.beat() for held in jobs], lease_s=self._rhythm.lease_s, renew=renew)
        for held, verdict in zip(jobs, verdicts, strict=True):
            held.hear(verdict)

    def _keep_beating(self) -> None:
        renewed = 0.0
        while not self._stop.wait(self._rhythm.news_s):
            due = monotonic() - renewed >= self._rhythm.heartbeat_s
            try:
                self.beat(renew=due)
                renewed = monotonic() if due else renewed
                self._on_news()
                self.is_redis_away = False
            except StoreUnavailable as error:
                if not self.is_redis_away:  # said once: an outage may last for hours
                    log.warning("redis away", reason=str(error))
                self.is_redis_away = True
