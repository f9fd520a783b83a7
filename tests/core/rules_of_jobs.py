"""What clients and runners do to jobs, in Redis and in the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import uuid4

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from core.errors import IdempotencyConflict, JobNotFound, QueueFull, TooManyJobs
from core.job import Job, JobState, NewJob, Priority, Stage
from core.job_store import Beat, Runner, Verdict
from core.redis_steps import RedisClient
from core.transcript import Notice
from tests.core.jobs import new_job
from tests.core.store_machine import ANY, BROKE, LEASE_S, LOSES_REPLY, MAX_FAILURES, MAX_LOSSES, SOME, WORK_S, StoreMachine, latest
from tests.core.store_model import CANCELLED, FAILED, RUNNING, SUCCEEDED, ModelJob

MAX_QUEUED, MAX_OF_KEY = 9, 6
SLOTS, HOSTS = ("gpu0", "gpu1", "gpu2"), ("one.example", "two.example")
ACTS = (SUCCEEDED, FAILED, CANCELLED, "retry", "release", "keep")
SOME_SLOTS = st.lists(st.sampled_from(SLOTS), min_size=1, max_size=4)
NOTICE = Notice(code="c", message="m")


@dataclass(frozen=True)
class Request:
    key_id: str
    priority: Priority
    work_s: float
    has_source: bool
    language: str
    hosts: list[str]
    idempotency_key: str

    def new(self) -> NewJob:
        source, duration_s = ("https://example.org/a.mp3", 0.0) if self.has_source else (None, self.work_s)
        deliveries = tuple({"kind": "webhook", "target": f"https://{host}/", "host": host} for host in self.hosts)
        said = {"key_id": self.key_id, "priority": self.priority, "language": self.language, "deliveries": deliveries}
        return new_job(source=source, duration_s=duration_s, **said)


REQUEST = st.builds(
    Request,
    key_id=st.sampled_from("abc"),
    priority=st.sampled_from(Priority),
    work_s=WORK_S,
    has_source=st.sampled_from([False, False, True]),
    language=st.sampled_from(["de", "en"]),
    hosts=st.lists(st.sampled_from(HOSTS), max_size=2),
    idempotency_key=st.sampled_from(["", "", "k1", "k2"]),
)


class JobRules(StoreMachine):
    def __init__(self, redis: RedisClient) -> None:
        super().__init__(redis)
        self.runners = {slot: Runner(slot, "0") for slot in SLOTS}
        self.claims: list[
            tuple[str, Runner, Job]
        ] = []  # all that were ever given, the oldest first, each with the id of its claim if it has one

    # Clients

    @initialize(requests=st.lists(REQUEST, min_size=2, max_size=5))
    def there_is_work(self, requests: list[Request]) -> None:
        self.submit(requests, loses_reply=False)

    @rule(requests=st.lists(REQUEST, min_size=1, max_size=4), loses_reply=LOSES_REPLY)
    def submit(self, requests: list[Request], loses_reply: bool) -> None:
        for request in requests:
            self.submit_one(request, loses_reply)
            self.look()

    def submit_one(self, request: Request, loses_reply: bool) -> None:
        new, key_id, idempotency_key = request.new(), request.key_id, request.idempotency_key
        send = partial(self.store.submit, new, max_queued=MAX_QUEUED, max_of_key=MAX_OF_KEY, idempotency_key=idempotency_key)
        if earlier := self.model.remembered(new, idempotency_key):
            if earlier.new.fingerprint == new.fingerprint:
                job, is_new = send()
                assert (job.id, is_new) == (earlier.new.id, False)
            else:
                self.is_refused(send, IdempotencyConflict)
        elif len(self.model.of_key(key_id)) >= MAX_OF_KEY:
            self.is_refused(send, TooManyJobs)
        elif len(self.model.queued()) >= MAX_QUEUED:
            self.is_refused(send, QueueFull)
        else:
            self.model.submit(new, idempotency_key)
            job, is_new = self.done(send, loses_reply, again=lambda first: (first[0], False))
            assert (job.id, is_new) == (new.id, True)

    @precondition(lambda self: self.model.jobs)
    @rule(which=ANY, loses_reply=LOSES_REPLY, is_deleted=st.sampled_from([False, False, True]))
    def let_go(self, which: int, loses_reply: bool, is_deleted: bool) -> None:
        job = latest(list(self.model.jobs.values()), which)
        if is_deleted:
            self.model.delete(job)
            self.store.delete(job.new.id)
            self.is_refused(lambda: self.store.delete(job.new.id), JobNotFound)
        else:
            self.model.cancel(job)
            assert self.done(lambda: self.store.cancel(job.new.id), loses_reply).state == job.state

    # Runners

    @rule(slots=SOME_SLOTS, fits_s=st.sampled_from([0.0, 30.0, 900.0]), loses_reply=LOSES_REPLY)
    def claim(self, slots: list[str], fits_s: float, loses_reply: bool) -> None:
        for slot in slots:
            self.claim_one(slot, fits_s, loses_reply)
            self.look()

    def claim_one(self, slot: str, fits_s: float, loses_reply: bool) -> None:
        runner, claim_id = self.runners[slot], uuid4().hex
        is_idle, expected = not self.model.held(slot), self.model.next_for(runner, round(fits_s * 1000))
        if expected:
            self.model.claim(expected, runner)
        take = self.done(lambda: self.store.claim(runner, lease_s=LEASE_S, fits_s=fits_s, claim_id=claim_id), loses_reply)
        assert (take and take.id) == (expected and expected.new.id)
        assert take or not is_idle or not any(self.model.pending(priority) for priority in Priority)
        if take:
            assert (take.id, take.attempt) not in {(earlier.id, earlier.attempt) for _, _, earlier in self.claims}
            self.claims.append((claim_id, runner, take))

    @precondition(lambda self: any(claim_id for claim_id, _, _ in self.claims))
    @rule(which=ANY)
    def claim_once_more(self, which: int) -> None:
        claim_id, runner, take = latest([claim for claim in self.claims if claim[0]], which)
        again = self.store.claim(runner, lease_s=LEASE_S, fits_s=900.0, claim_id=claim_id)
        job = self.model.jobs.get(take.id)
        assert (again and (again.id, again.attempt)) == ((take.id, take.attempt) if job and job.is_held_by(take) else None)

    @precondition(lambda self: self.claims)
    @rule(which=SOME, stage=st.sampled_from([None, Stage.VAD, Stage.ASR]), progress=st.sampled_from([0.1, 0.5]), renew=st.booleans())
    def beat(self, which: list[int], stage: Stage | None, progress: float, renew: bool) -> None:
        takes = [latest(self.claims, one)[2] for one in which]
        beats = [Beat(take.id, take.attempt, stage, progress) for take in takes]
        assert list(self.store.beat(beats, lease_s=LEASE_S, renew=renew)) == [self.heard(take, stage, progress, renew) for take in takes]

    def heard(self, take: Job, stage: Stage | None, progress: float, renew: bool) -> Verdict:
        job = self.holding(take)
        if job is None:
            return Verdict.LOST
        if stage:
            job.stage, job.progress = stage, max(job.progress, progress)
        job.has_lease = job.has_lease or renew
        return Verdict.CANCEL if job.cancel_requested else Verdict.HELD

    @precondition(lambda self: self.claims)
    @rule(which=ANY, stage=st.sampled_from([Stage.VAD, Stage.ASR]), loses_reply=LOSES_REPLY)
    def keep_product(self, which: int, stage: Stage, loses_reply: bool) -> None:
        take = latest(self.claims, which)[2]
        key = f"{take.attempt}-{stage}"
        job = self.holding(take)
        if job:
            job.products[stage] = key
        assert self.done(lambda: self.store.keep_product(take, stage, key), loses_reply) == bool(job)

    @precondition(lambda self: self.claims)
    @rule(which=ANY, how=st.sampled_from([SUCCEEDED, SUCCEEDED, FAILED, CANCELLED]), loses_reply=LOSES_REPLY)
    def end(self, which: int, how: JobState, loses_reply: bool) -> None:
        take = latest(self.claims, which)[2]
        key = f"result-{take.attempt}" if how is SUCCEEDED else None
        send: Callable[[], JobState | None] = {
            SUCCEEDED: lambda: self.store.succeed(take, result_key=str(key), warnings=[NOTICE], stages_s={"asr": 1.5}),
            FAILED: lambda: self.store.fail(take, BROKE),
            CANCELLED: lambda: self.store.end_cancelled(take),
        }[how]
        job, again = self.holding(take), self.ended_by(take)
        if job:
            again = self.model.end(job, how, result_key=key, error=BROKE.code if how is FAILED else None)
            job.finished_by = take.attempt
        assert self.done(send, loses_reply) == again

    @precondition(lambda self: self.claims)
    @rule(which=ANY, loses_reply=LOSES_REPLY)
    def retry(self, which: int, loses_reply: bool) -> None:
        take = latest(self.claims, which)[2]
        job, expected = self.holding(take), self.ended_by(take)
        if job:
            job.failures += 1
            if job.cancel_requested or job.failures >= MAX_FAILURES:
                self.model.end(job, FAILED, error=BROKE.code)
                job.finished_by = take.attempt
            else:
                self.model.totals["retries"] += 1
                self.model.requeue(job)
            expected = job.state
        assert self.done(lambda: self.store.retry(take, BROKE, max_failures=MAX_FAILURES), loses_reply, may_be_lost=True) == expected

    @precondition(lambda self: self.claims)
    @rule(which=ANY, loses_reply=LOSES_REPLY, is_burst_failed=st.sampled_from([False, False, True]))
    def release(self, which: int, loses_reply: bool, is_burst_failed: bool) -> None:
        take = latest(self.claims, which)[2]
        job = self.holding(take)
        if job and job.cancel_requested:
            self.model.end(job, CANCELLED)
        elif job:
            self.model.totals["handbacks"] += 1
            job.burst_failures += is_burst_failed
            self.model.requeue(job)
        send = partial(self.store.release, take, is_burst_failed=is_burst_failed)
        assert self.done(send, loses_reply, may_be_lost=True) == (job and job.state)

    @precondition(lambda self: any(job.has_lease for job in self.model.jobs.values()))
    @rule(which=SOME, is_noticed=st.booleans())
    def runners_fall_silent(self, which: list[int], is_noticed: bool) -> None:
        leased = [job for job in self.model.jobs.values() if job.has_lease]
        for job in (latest(leased, one) for one in which):
            job.has_lease = False
            self.run_out("leases", job.new.id)
        if is_noticed:
            self.reclaim_expired(loses_reply=False)

    @precondition(lambda self: self.takes_held())
    @rule(which=ANY, slot=st.sampled_from(SLOTS), how=st.sampled_from(ACTS), times=st.sampled_from([1, 1, 2]), loses_reply=LOSES_REPLY)
    def a_runner_comes_back_too_late(self, which: int, slot: str, how: str, times: int, loses_reply: bool) -> None:
        """Its lease is over, and most often another runs its job."""
        take = latest(self.takes_held(), which)
        for _ in range(times):
            if job := self.holding(take):
                job.has_lease = False
                self.run_out("leases", take.id)
            self.look()
            self.reclaim_expired(loses_reply=False)
            self.look()
            self.claim([slot], fits_s=900.0, loses_reply=False)
            late, take = take, self.claims[-1][2]
        self.act(late, how, loses_reply)

    @precondition(lambda self: self.takes_held())
    @rule(which=ANY, how=st.sampled_from(ACTS), loses_reply=LOSES_REPLY)
    def a_job_is_cancelled_while_it_runs(self, which: int, how: str, loses_reply: bool) -> None:
        take = latest(self.takes_held(), which)
        self.model.cancel(self.model.jobs[take.id])
        self.store.cancel(take.id)
        self.look()
        self.act(take, how, loses_reply)

    def act(self, take: Job, how: str, loses_reply: bool) -> None:
        which = len(self.claims) - 1 - [earlier for _, _, earlier in self.claims].index(take)
        if how in (SUCCEEDED, FAILED, CANCELLED):
            self.end(which, JobState(how), loses_reply=loses_reply)
        elif how == "retry":
            self.retry(which, loses_reply)
        elif how == "release":
            self.release(which, loses_reply, is_burst_failed=False)
        else:
            self.keep_product(which, Stage.ASR, loses_reply)

    def takes_held(self) -> list[Job]:
        return [take for _, _, take in self.claims if self.holding(take)]

    @rule(loses_reply=LOSES_REPLY)
    def reclaim_expired(self, loses_reply: bool) -> None:
        lost = [job for job in self.model.jobs.values() if job.state is RUNNING and not job.has_lease]
        reply = self.done(lambda: self.store.reclaim_expired(max_losses=MAX_LOSSES), loses_reply, again=lambda _: {})
        self.lost(lost, reply)

    @rule(slot=st.sampled_from(SLOTS), is_first=st.booleans(), loses_reply=LOSES_REPLY)
    def a_worker_starts(self, slot: str, is_first: bool, loses_reply: bool) -> None:
        """In a slot whose worker died, or once more says that it did."""
        if is_first:
            self.runners[slot] = Runner(slot, str(int(self.runners[slot].boot_id) + 1))
        runner = self.runners[slot]
        lost = [job for job in self.model.held(slot) if job.holder != runner]
        reply = self.done(lambda: self.store.reclaim_slot(runner, max_losses=MAX_LOSSES), loses_reply, again=lambda _: {})
        self.lost(lost, reply)

    def lost(self, jobs: Sequence[ModelJob], reply: dict[str, JobState]) -> None:
        self.may_lose = True
        for job in jobs:
            self.model.lose(job, MAX_LOSSES)
        assert reply == {job.new.id: job.state for job in jobs}

    def holding(self, take: Job) -> ModelJob | None:
        job = self.model.jobs.get(take.id)
        return job if job and job.is_held_by(take) else None

    def ended_by(self, take: Job) -> JobState | None:
        job = self.model.jobs.get(take.id)
        return job.state if job and job.finished_by == take.attempt else None
