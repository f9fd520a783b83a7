"""What the job store ought to do, said once more in plain Python, without Redis and without a clock."""

from collections import Counter
from dataclasses import dataclass, field

from core.job import Job, JobState, NewJob, Priority
from core.job_store import SUSPECT_AFTER, Runner
from core.retention import Kept

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELLED = JobState


@dataclass
class ModelJob:
    new: NewJob
    seq: int
    work_ms: int
    is_fetching: bool
    idempotency_key: str
    state: JobState = QUEUED
    stage: str | None = None
    progress: float = 0.0
    attempt: int = 0
    losses: int = 0
    failures: int = 0
    finished_by: int | None = None  # the attempt that ended it
    cancel_requested: bool = False
    holder: Runner | None = None
    has_lease: bool = False  # False while running: it has run out, and whoever looks takes the job back
    products: dict[str, str] = field(default_factory=dict)
    result_key: str | None = None
    error: str | None = None
    fetch: int = 0
    fetcher: str | None = None
    fetch_losses: int = 0
    fetch_failures: int = 0
    is_fetch_due: bool = True
    fetch_ended: int | None = None  # the token of the last fetch that ended
    burst_failures: int = 0
    kept: set[Kept] = field(default_factory=set)  # once it has ended
    results_are_held_back: bool = False  # a delivery still needed them when they were asked for

    @property
    def is_pending(self) -> bool:
        return self.state is QUEUED and not self.is_fetching

    def is_held_by(self, take: Job) -> bool:
        return self.state is RUNNING and self.attempt == take.attempt

    def is_fetched_by(self, take: Job) -> bool:
        return self.is_fetching and self.fetcher is not None and self.fetch == take.fetch

    def fields(self) -> dict[str, object]:
        """As its record must say it."""
        return {
            "seq": self.seq, "work_ms": self.work_ms, "state": self.state, "stage": self.stage, "progress": self.progress,
            "attempt": self.attempt, "losses": self.losses, "failures": self.failures, "cancel_requested": self.cancel_requested,
            "owner": self.holder and self.holder.owner, "slot": self.holder and self.holder.slot, "products": self.products,
            "result_key": self.result_key, "error": self.error, "fetch": self.fetch, "fetch_owner": self.fetcher,
            "fetch_losses": self.fetch_losses, "fetch_failures": self.fetch_failures, "burst_failures": self.burst_failures,
        }  # fmt: skip


@dataclass
class ModelDelivery:
    host: str
    token: int = 0
    sender: str | None = None
    losses: int = 0
    tries: int = 0
    is_due: bool = True
    outcome: str = "pending"
    ended: int | None = None  # the token of the last try that ended

    def fields(self) -> tuple[object, ...]:
        return self.token, self.losses, self.tries, self.sender, self.outcome


class Turns:
    """Whose turn it is among the API keys of one priority: start-time fair queueing, by work."""

    def __init__(self) -> None:
        self.served = 0
        self.turns: dict[str, int] = {}  # of the keys that have something waiting
        self.left: dict[str, int] = {}

    def enter(self, key_id: str) -> None:
        self.turns.setdefault(key_id, max(self.served, self.left.pop(key_id, 0)))

    def leave(self, key_id: str) -> None:
        self.left[key_id] = self.turns.pop(key_id)

    def serve(self, key_id: str) -> None:
        self.served = self.turns[key_id]


class StoreModel:
    def __init__(self) -> None:
        self.jobs: dict[str, ModelJob] = {}
        self.deliveries: dict[str, ModelDelivery] = {}
        self.turns = {priority: Turns() for priority in Priority}
        self.totals: Counter[str] = Counter()
        self.bursts: dict[str, int] = {}  # those under way, with what is reserved for each
        self.ledger: Counter[str] = Counter()  # in millionths of a dollar; everything happens on one day
        self.submitted = 0

    # What there is

    def of_key(self, key_id: str) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.new.key_id == key_id and not job.state.is_terminal]

    def queued(self) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.state is QUEUED]

    def held(self, slot: str) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.holder and job.holder.slot == slot]

    def pending(self, priority: Priority) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.is_pending and job.new.options.priority is priority]

    def remembered(self, new: NewJob, idempotency_key: str) -> ModelJob | None:
        same = (idempotency_key, new.key_id)
        found = [job for job in self.jobs.values() if idempotency_key and (job.idempotency_key, job.new.key_id) == same]
        return found[0] if found else None

    def best(self) -> ModelJob | None:
        """The pending job that the next claim is for."""
        for priority in Priority:
            if pending := self.pending(priority):
                turns = self.turns[priority].turns
                lane = min({job.new.key_id for job in pending}, key=lambda key_id: (turns[key_id], key_id))
                return min((job for job in pending if job.new.key_id == lane), key=lambda job: job.seq)
        return None

    def next_for(self, runner: Runner, fits_ms: int) -> ModelJob | None:
        held, job = self.held(runner.slot), self.best()
        if job is None or any(other.losses >= SUSPECT_AFTER for other in held):
            return None
        fits = job.work_ms <= fits_ms and job.losses < SUSPECT_AFTER
        return job if fits or not held else None

    # What becomes of it

    def submit(self, new: NewJob, idempotency_key: str) -> None:
        self.submitted += 1
        job = ModelJob(new, self.submitted, round(new.work_s * 1000), new.source is not None, idempotency_key)
        self.jobs[new.id] = job
        self.totals["submitted"] += 1
        if job.is_fetching:
            job.stage = "fetching"
        else:
            self._enqueue(job)

    def claim(self, job: ModelJob, runner: Runner) -> None:
        turns = self.turns[job.new.options.priority]
        turns.serve(job.new.key_id)
        self.take(job, runner)
        turns.left = {key: turn for key, turn in turns.left.items() if turn > turns.served}

    def take(self, job: ModelJob, runner: Runner) -> None:
        """Its lane pays for it, whoever's turn it was."""
        self.turns[job.new.options.priority].turns[job.new.key_id] += job.work_ms
        self._dequeue(job, RUNNING)
        job.holder, job.has_lease, job.progress = runner, True, 0.0
        job.attempt += 1
        self.totals["attempts"] += 1

    def requeue(self, job: ModelJob) -> None:
        job.state, job.holder, job.has_lease, job.stage, job.progress = QUEUED, None, False, None, 0.0
        self._enqueue(job)

    def lose(self, job: ModelJob, max_losses: int) -> None:
        job.losses += 1
        self.totals["lost_runners"] += 1
        if job.cancel_requested:
            self.end(job, CANCELLED)
        elif job.losses >= max_losses:
            self.end(job, FAILED, error="worker_lost")
        else:
            self.requeue(job)

    def end(self, job: ModelJob, state: JobState, *, result_key: str | None = None, error: str | None = None) -> JobState:
        """A cancel that came first wins."""
        if job.cancel_requested:
            state, result_key, error = CANCELLED, None, None
        if job.is_pending:
            self._dequeue(job, state)
        job.state, job.stage, job.holder, job.has_lease = state, None, None, False
        job.is_fetching, job.fetcher = False, None
        job.result_key, job.error = result_key, error
        job.progress = 1.0 if state is SUCCEEDED else job.progress
        job.kept = set(Kept)
        self.totals[state] += 1
        for number, owed in enumerate(job.new.deliveries, start=1):
            self.deliveries[f"{job.new.id}:{number}"] = ModelDelivery(str(owed["host"]))
        return state

    def cancel(self, job: ModelJob) -> None:
        if job.state is QUEUED:
            self.end(job, CANCELLED)
        elif job.state is RUNNING:
            job.cancel_requested = True

    def fetched(self, job: ModelJob, work_ms: int) -> None:
        job.is_fetching, job.fetcher, job.stage, job.work_ms = False, None, None, work_ms
        self._enqueue(job)

    def delete(self, job: ModelJob) -> None:
        if job.is_pending:
            self._dequeue(job, job.state)
        del self.jobs[job.new.id]
        for number in range(1, len(job.new.deliveries) + 1):
            self.deliveries.pop(f"{job.new.id}:{number}", None)

    def owes(self, job: ModelJob) -> bool:
        ids = (f"{job.new.id}:{number}" for number in range(1, len(job.new.deliveries) + 1))
        return any(self.deliveries[id_].outcome == "pending" for id_ in ids)

    def expire(self, job: ModelJob, what: Kept) -> None:
        """Its files are gone."""
        if what in job.kept:
            self.totals[f"expired:{what}"] += 1
        job.kept.discard(what)
        if what is Kept.PRODUCTS:
            job.products = {}
        if what is Kept.RESULTS:
            self.delete(job)

    def intend(self, burst_id: str, jobs: list[ModelJob], runner: Runner, reserved: int) -> None:
        for job in jobs:
            self.take(job, runner)
        self.bursts[burst_id] = reserved
        self.ledger += Counter(reserved=reserved, calls=1, jobs=len(jobs))

    def settle(self, burst_id: str, cost: int | None) -> None:
        reserved = self.bursts.pop(burst_id)
        self.ledger["reserved"] -= reserved
        self.ledger["spent"] += reserved if cost is None else cost

    @property
    def committed(self) -> int:
        return self.ledger["reserved"] + self.ledger["spent"]

    def _enqueue(self, job: ModelJob) -> None:
        self.turns[job.new.options.priority].enter(job.new.key_id)

    def _dequeue(self, job: ModelJob, state: JobState) -> None:
        job.state = state
        others = [other for other in self.pending(job.new.options.priority) if other is not job and other.new.key_id == job.new.key_id]
        if not others:
            self.turns[job.new.options.priority].leave(job.new.key_id)
