"""The job store: one record per job in Redis, the truth that messages, leases in memory and other clouds only hint at."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from time import monotonic
from typing import Any
from uuid import uuid4

from redis.exceptions import AuthenticationError, ResponseError

from core.backlog import Backlog, Standing, ask_backlog, ask_standing, backlog_of, standing_of
from core.crash_points import passed
from core.errors import IdempotencyConflict, JobNotFound, QueueFull, RecordBroken, StoreUnavailable, TooManyJobs
from core.job import Job, JobFailure, JobState, NewJob, Priority, Stage
from core.job_records import in_turn, job_of
from core.log import logger
from core.redis_steps import NAMESPACE, RedisClient, RedisSteps, redis_away
from core.transcript import Notice
from core.worker_reports import WorkerReport, report_of

log = logger("core.job_store")
MOST_READ = 5_000  # records that a page of one state looks through: 0.15 s beside a local Redis
REREAD_S = 5.0
SUSPECT_AFTER = 2  # losses after which a job runs alone, so that it takes nobody with it
WAIT_BOUNDS_S = (1, 5, 15, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 86400)  # of the histogram of waits
NO_STAGES: Mapping[str, float] = {}


class Verdict(StrEnum):
    """What a runner hears of a job when it beats."""

    HELD = "held"
    LOST = "lost"
    CANCEL = "cancel"


@dataclass(frozen=True)
class Runner:
    """Who holds leases: a slot is a place that outlives its process, the boot id is one process' life."""

    slot: str
    boot_id: str

    @property
    def owner(self) -> str:
        return f"{self.slot}/{self.boot_id}"


@dataclass(frozen=True)
class Beat:
    job_id: str
    attempt: int
    stage: Stage | None
    progress: float


@dataclass(frozen=True)
class Kept:
    """The result of a job that failed all the same."""

    key: str
    sha256: str
    warnings: tuple[Notice, ...]


@dataclass(frozen=True)
class Page:
    """Jobs, newest first, and where the next page begins; None on the last."""

    jobs: list[Job]
    next: str | None

    def __iter__(self) -> Iterator[Job]:
        return iter(self.jobs)


class JobStore:
    """Every method is atomic, and safe to repeat after a lost reply. All raise `StoreUnavailable` when Redis is away."""

    def __init__(self, redis: RedisClient, namespace: str = NAMESPACE) -> None:
        self._redis = redis
        self._namespace = namespace
        self._steps = RedisSteps(redis, namespace)

    # Clients

    def submit(
        self, job: NewJob, *, max_queued: int, max_of_key: int = 0, idempotency_key: str = "", idempotency_ttl_s: int = 86400
    ) -> tuple[Job, bool]:
        """The job, and whether it is new. Raises `IdempotencyConflict`, `QueueFull`, `TooManyJobs`; 0 of a key is no limit."""
        outcome, detail = self._steps.run(
            "submit", job.id, job.model_dump_json(), job.key_id, job.options.priority, _ms(job.work_s),
            idempotency_key, job.fingerprint, idempotency_ttl_s * 1000, max_queued, max_of_key, int(job.source is not None),
        )  # fmt: skip
        if outcome == "conflict":
            raise IdempotencyConflict(f"this Idempotency-Key was used for job {detail} with another file or other options: use a new key")
        if outcome == "too many":
            raise _too_many(int(detail))
        if outcome == "full":
            raise QueueFull(f"the queue is full: {detail} jobs wait; try again later")
        return self.get(str(detail)), outcome == "created"

    def check_room_for(self, key_id: str, *, max_of_key: int) -> None:
        """Raises `TooManyJobs` when the API key has that many jobs that have not ended; 0 is no limit."""
        if max_of_key and (unfinished := int(self._steps.run("unfinished", key_id, max_of_key))) >= max_of_key:
            raise _too_many(unfinished)

    def get(self, job_id: str, *, key_id: str | None = None) -> Job:
        """Raises `JobNotFound`, also for the job of another API key than `key_id`, if that is given, and `RecordBroken`."""
        with redis_away():
            fields = self._redis.hgetall(self._key("job", job_id))
        if not fields or key_id not in (None, fields.get("key_id")):
            raise _not_found(job_id)
        return job_of(fields)

    def page(
        self,
        *,
        limit: int = 50,
        before: str | None = None,
        state: JobState | None = None,
        key_id: str | None = None,
        most_read: int = MOST_READ,
    ) -> Page:
        """`before` is the `next` of the page before. Raises `JobNotFound` when that was deleted, or is not among these jobs.

        Of one API key only, if `key_id` is given. Of one state it looks through `most_read` records at most: then a page with
        few jobs, even none, can have a next.
        """
        reach = limit if state is None else most_read
        ids = self._older_than(self._key("jobs", *([key_id] if key_id else [])), before, reach + 1)
        jobs: list[Job] = []
        for job in self._readable(ids[:reach], state):
            if len(jobs) == limit:
                return Page(jobs, next=jobs[-1].id)
            jobs.append(job)
        return Page(jobs, next=ids[reach - 1] if len(ids) > reach else None)

    def cancel(self, job_id: str) -> Job:
        """Cancelled at once while it waits, within seconds while it runs, unchanged once it has ended. Raises `JobNotFound`."""
        self._steps.run("cancel", job_id)
        return self.get(job_id)

    def delete(self, job_id: str) -> None:
        """Raises `JobNotFound`. Its files are the caller's to remove."""
        if not self._steps.run("delete", job_id):
            raise _not_found(job_id)

    def standing(self, job: Job) -> Standing:
        """In one round trip. Raises `StoreUnavailable`."""
        with redis_away():
            pipe = self._redis.pipeline(transaction=False)
            ask_standing(pipe, self._key, job)
            return standing_of(pipe.execute(), job)

    def position(self, job: Job) -> int | None:
        """Of the job's standing."""
        priorities = list(Priority)
        ahead = priorities[: priorities.index(job.options.priority)]
        with redis_away():
            pipe = self._redis.pipeline(transaction=False).zrank(self._key("pending", job.options.priority), job.id)
            for priority in ahead:
                pipe.zcard(self._key("pending", priority))
            rank, *before = pipe.execute()
        return None if rank is None else rank + sum(before)

    def watch(self, job_id: str, *, quiet_s: float = 5.0) -> Iterator[Job]:
        """The record now and after each change until it ends, and at least every `quiet_s`, then perhaps as it was last read.

        It is read again every `REREAD_S` in case a hint got lost. Raises `JobNotFound` at once, or when the job is deleted.
        """
        with self._redis.pubsub() as hints:
            with redis_away():
                hints.subscribe(self._key("changed", job_id))
                hints.get_message(timeout=quiet_s)  # that it is subscribed, over a connection other than the one that reads
            job, read_at = self.get(job_id), monotonic()
            yield job
            while not job.state.is_terminal:
                with redis_away():
                    is_hinted = hints.get_message(timeout=quiet_s) is not None  # or subscribed anew, having missed some
                if is_hinted or monotonic() - read_at >= REREAD_S:
                    job, read_at = self.get(job_id), monotonic()
                yield job

    # Runners

    def claim(self, runner: Runner, *, lease_s: float, fits_s: float, claim_id: str | None = None) -> Job | None:
        """The best pending job, if it fits into `fits_s` audio seconds beside what the runner holds; an idle runner takes any.

        The record's `attempt` is the fencing token. A repeat with the same `claim_id` gives the same job again.
        """
        claimed = self._steps.run(
            "claim",
            runner.owner,
            runner.slot,
            _ms(lease_s),
            claim_id or uuid4().hex,
            _ms(max(fits_s, 0.0)),
            SUSPECT_AFTER,
            json.dumps(WAIT_BOUNDS_S),
        )
        return self.get(str(claimed[0])) if claimed else None

    def beat(self, beats: Sequence[Beat], *, lease_s: float, renew: bool) -> tuple[Verdict, ...]:
        """Reports stage and progress, renews the leases if asked, and hears of each attempt whether it still holds its job."""
        if not beats:
            return ()
        per_job = [value for beat in beats for value in (beat.job_id, beat.attempt, beat.stage or "", round(beat.progress, 3))]
        verdicts = self._steps.run("beat", _ms(lease_s), int(renew), *per_job)
        return tuple(map(Verdict, verdicts))

    def keep_product(self, job: Job, stage: Stage, key: str, *, sha256: str = "") -> bool:
        """Whether the attempt still held the job, and the product is now in its record."""
        return bool(self._steps.run("keep", job.id, job.attempt, stage, key, sha256) == Verdict.HELD)

    def succeed(
        self,
        job: Job,
        *,
        result_key: str,
        result_sha256: str = "",
        warnings: Iterable[Notice] = (),
        stages_s: Mapping[str, float] = NO_STAGES,
    ) -> JobState | None:
        """The state reached (a cancel that came first wins), or None when the attempt had lost the job."""
        result = _result(result_key, result_sha256)
        return self._finish(job, JobState.SUCCEEDED, *result, "warnings", _noted(warnings), stages_s=stages_s)

    def fail(self, job: Job, failure: JobFailure) -> JobState | None:
        return self._finish(job, JobState.FAILED, "error", failure.model_dump_json())

    def end_cancelled(self, job: Job) -> JobState | None:
        return self._finish(job, JobState.CANCELLED)

    def release(self, job: Job, *, is_burst_failed: bool = False) -> JobState | None:
        """Back to its place in the queue, no loss counted; None when the attempt had lost it."""
        return _state(self._steps.run("release", job.id, job.attempt, int(is_burst_failed)))

    def retry(self, job: Job, failure: JobFailure, *, max_failures: int, kept: Kept | None = None) -> JobState | None:
        """Queued once more, or failed for good when it broke `max_failures` times; None when the attempt had lost it.

        A job that fails for good keeps the result that there is all the same.
        """
        result = (*_result(kept.key, kept.sha256), "warnings", _noted(kept.warnings)) if kept else ()
        return _state(self._steps.run("retry", job.id, job.attempt, max_failures, failure.model_dump_json(), *result))

    def reclaim_expired(self, *, max_losses: int, limit: int = 100) -> dict[str, JobState]:
        """Takes back jobs whose runner fell silent for a lease: job id → the state it is in now."""
        return _outcomes(self._steps.run("reclaim_expired", max_losses, limit))

    def reclaim_slot(self, runner: Runner, *, max_losses: int) -> dict[str, JobState]:
        """Takes back what an earlier process in this slot held: job id → the state it is in now."""
        return _outcomes(self._steps.run("reclaim_slot", runner.slot, runner.owner, max_losses))

    # Everybody

    def report_worker(self, report: WorkerReport, *, ttl_s: float) -> None:
        with redis_away():
            said = {name: value for name, value in asdict(report).items() if name != "jobs_in_flight"}
            self._redis.set(self._key("worker", report.slot), json.dumps(said), px=_ms(ttl_s))
            passed("redis", "worker")
            self._redis.sadd(self._key("workers"), report.slot)
            passed("redis", "workers")

    def workers(self) -> tuple[WorkerReport, ...]:
        """Those heard of lately."""
        with redis_away():
            slots = sorted(self._redis.smembers(self._key("workers")))
            reports = self._redis.mget([self._key("worker", slot) for slot in slots]) if slots else []
            pipe = self._redis.pipeline(transaction=False)
            for slot in slots:
                pipe.scard(self._key("slot", slot))
            held = pipe.execute()
        return tuple(report_of(json.loads(report), jobs) for report, jobs in zip(reports, held, strict=True) if report)

    def backlog(self) -> Backlog:
        with redis_away():
            pipe = self._redis.pipeline(transaction=False)
            ask_backlog(pipe, self._key)
            return backlog_of(pipe.execute())

    def pending(self, *, most: int) -> list[Job]:
        """The first that wait for a runner, about in the order in which claims would give them."""
        waiting: list[Job] = []
        for priority in Priority:
            with redis_away():
                ids = self._redis.zrange(self._key("pending", priority), 0, most - 1)
                lanes = dict(self._redis.zrange(self._key("lanes", priority), 0, -1, withscores=True))
            waiting += in_turn(self._readable(ids, JobState.QUEUED), lanes)
        return waiting[:most]

    def running(self) -> list[Job]:
        """Jobs that a runner holds."""
        with redis_away():
            return list(self._readable(self._redis.zrange(self._key("leases"), 0, -1), JobState.RUNNING))

    def clock_s(self) -> float:
        """Redis' own clock, the only one that leases go by, in seconds since the epoch."""
        with redis_away():
            seconds, microseconds = self._redis.time()
        return float(seconds) + float(microseconds) / 1e6

    def lead(self, holder: str, *, ttl_s: float) -> bool:
        """Whether `holder` is the one dispatcher that acts, until `ttl_s` from now."""
        return bool(self._steps.run("lead", holder, _ms(ttl_s)))

    def resign(self, holder: str) -> bool:
        """Whether `holder` led; another may from now on."""
        return bool(self._steps.run("resign", holder))

    def uptime_s(self) -> float:
        """How long this Redis has been up, in whole seconds."""
        with redis_away():
            return float(self._redis.info("server")["uptime_in_seconds"])

    def fault(self) -> str | None:
        """Why no job can be written down, None when it can: a Redis that is full or cannot save answers, but takes no writes."""
        try:
            self._steps.run("probe")
        except StoreUnavailable as error:
            if isinstance(error.__cause__, AuthenticationError):
                return "Redis refuses our password"
            return "Redis takes no writes" if isinstance(error.__cause__, ResponseError) else "Redis does not answer"
        return None

    def _finish(self, job: Job, state: JobState, *fields: str, stages_s: Mapping[str, float] = NO_STAGES) -> JobState | None:
        stages_ms = json.dumps({stage: _ms(seconds) for stage, seconds in stages_s.items()})
        return _state(self._steps.run("finish", job.id, job.attempt, state, stages_ms, *fields))

    def _older_than(self, listing: str, job_id: str | None, most: int) -> list[str]:
        """Ids, newest first. Raises `JobNotFound`."""
        with redis_away():
            if job_id is None:
                return list(self._redis.zrevrange(listing, 0, most - 1))
            while (rank := self._redis.zrevrank(listing, job_id)) is not None:
                found = list(self._redis.zrevrange(listing, rank, rank + most))
                if found[:1] == [job_id]:  # else jobs came or went since it was asked where this one stands
                    return found[1:]
        raise _not_found(job_id)

    def _readable(self, ids: Sequence[str], state: JobState | None) -> Iterator[Job]:
        for fields in self._records(ids, state):
            try:
                yield job_of(fields)
            except RecordBroken as error:  # it must not keep the others from being seen
                log.error("record broken", job_id=fields["id"], reason=str(error))

    def _records(self, ids: Sequence[str], state: JobState | None, at_once: int = 100) -> Iterator[dict[str, str]]:
        """As they are in Redis, of one state if asked, without those deleted meanwhile."""
        for start in range(0, len(ids), at_once):
            some = ids[start : start + at_once]
            if state is not None:  # a record may hold 16 kB of metadata: only those wanted are read whole
                states = self._of_each(some, lambda pipe, key: pipe.hget(key, "state"))
                some = [job_id for job_id, found in zip(some, states, strict=True) if found == state]
            found = self._of_each(some, lambda pipe, key: pipe.hgetall(key))
            for job_id, fields in zip(some, found, strict=True):
                if fields and state in (None, fields.get("state")):
                    yield fields | {"id": job_id}

    def _of_each(self, job_ids: Sequence[str], read: Callable[[Any, str], object]) -> list[Any]:
        """What `read` asks of every record, in one round trip."""
        with redis_away():
            pipe = self._redis.pipeline(transaction=False)
            for job_id in job_ids:
                read(pipe, self._key("job", job_id))
            return list(pipe.execute())

    def _key(self, *parts: str) -> str:
        return ":".join((self._namespace, *parts))


def _result(key: str, sha256: str) -> tuple[str, ...]:
    return "result_key", key, "result_sha256", sha256


def _noted(warnings: Iterable[Notice]) -> str:
    return json.dumps([warning.model_dump() for warning in warnings])


def _not_found(job_id: str) -> JobNotFound:
    return JobNotFound(f"there is no job {job_id}: it never was, it was deleted, or its time was over")


def _too_many(unfinished: int) -> TooManyJobs:
    return TooManyJobs(f"{unfinished} jobs of this API key wait or run, as many as it may have: send more when some have ended")


def _outcomes(flat: Sequence[str]) -> dict[str, JobState]:
    return {job_id: JobState(state) for job_id, state in zip(flat[::2], flat[1::2], strict=True)}


def _state(reply: str) -> JobState | None:
    return None if reply == Verdict.LOST else JobState(reply)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
