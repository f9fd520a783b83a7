"""What dispatchers do to sources and deliveries, in Redis and in the model."""

from functools import partial

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from core.job import Fetched, Job, JobState
from core.leased import Lease
from core.outbox import Answer, Delivery, DeliveryState
from core.redis_steps import RedisClient
from tests.core.rules_of_jobs import HOSTS
from tests.core.store_machine import ANY, BROKE, LEASE_S, LOSES_REPLY, MAX_FAILURES, MAX_LOSSES, SOME, WORK_S, StoreMachine, latest
from tests.core.store_model import FAILED, QUEUED, ModelDelivery, ModelJob

DISPATCHERS = ("d1", "d2")


class DispatcherRules(StoreMachine):
    def __init__(self, redis: RedisClient) -> None:
        super().__init__(redis)
        self.fetched: list[Job] = []  # all that were ever taken, the oldest first
        self.sent: list[Delivery] = []

    # Sources

    @rule(whose=st.lists(st.sampled_from(DISPATCHERS), min_size=1, max_size=3))
    def take_sources(self, whose: list[str]) -> None:
        for who in whose:
            self.take_source(who)
            self.look()

    def take_source(self, who: str) -> None:
        expected: ModelJob | None = None
        for job in map(self.model.jobs.__getitem__, self.was.due("fetching")):
            losses = job.fetch_losses + (job.fetcher not in (None, who))
            if losses < MAX_LOSSES:
                job.fetch, job.fetcher, job.fetch_losses, job.is_fetch_due = job.fetch + 1, who, losses, False
                expected = job
                break
            self.model.end(job, FAILED, error="worker_lost")
        take = self.fetches.claim(Lease(who, LEASE_S, MAX_LOSSES))
        assert (take and (take.id, take.fetch)) == (expected and (expected.new.id, expected.fetch))
        if take:
            self.fetched.append(take)

    @precondition(lambda self: self.fetched)
    @rule(which=SOME, renew=st.booleans())
    def beat_sources(self, which: list[int], renew: bool) -> None:
        takes = [latest(self.fetched, one) for one in which]
        held = [self.fetching(take) for take in takes]
        for job in filter(None, held):
            job.is_fetch_due = job.is_fetch_due and not renew
        assert self.fetches.beat(takes, lease_s=LEASE_S, renew=renew) == tuple(map(bool, held))

    @precondition(lambda self: self.fetched)
    @rule(which=ANY, work_s=WORK_S, loses_reply=LOSES_REPLY)
    def complete_source(self, which: int, work_s: float, loses_reply: bool) -> None:
        take = latest(self.fetched, which)
        job, expected = self.fetching(take), self.fetch_ended_by(take)
        if job:
            job.fetch_ended, expected = take.fetch, QUEUED
            self.model.fetched(job, round(work_s * 1000))
        found = Fetched(duration_s=work_s, input_key="k", input_bytes=1, input_sha256="0")
        assert self.done(lambda: self.fetches.complete(take, found), loses_reply) == expected

    @precondition(lambda self: self.fetched)
    @rule(which=ANY, pause_s=st.sampled_from([0, LEASE_S]), is_final=st.booleans(), loses_reply=LOSES_REPLY)
    def fail_source(self, which: int, pause_s: float, is_final: bool, loses_reply: bool) -> None:
        take = latest(self.fetched, which)
        job, expected = self.fetching(take), self.fetch_ended_by(take)
        if job:
            job.fetch_ended, job.fetcher, job.is_fetch_due = take.fetch, None, not pause_s
            job.fetch_failures += 1
            if is_final or job.fetch_failures >= MAX_FAILURES:
                self.model.end(job, FAILED, error=BROKE.code)
            expected = job.state
        most = 0 if is_final else MAX_FAILURES
        assert self.done(lambda: self.fetches.retry(take, BROKE, pause_s=pause_s, max_failures=most), loses_reply) == expected

    @precondition(lambda self: self.fetched)
    @rule(which=ANY, pause_s=st.sampled_from([0, LEASE_S]), loses_reply=LOSES_REPLY)
    def release_source(self, which: int, pause_s: float, loses_reply: bool) -> None:
        take = latest(self.fetched, which)
        job = self.fetching(take)
        if job:
            job.fetcher, job.is_fetch_due = None, not pause_s
        assert self.done(lambda: self.fetches.release(take, pause_s=pause_s), loses_reply, may_be_lost=True) == (QUEUED if job else None)

    @precondition(lambda self: any(job.is_fetching and not job.is_fetch_due for job in self.model.jobs.values()))
    @rule(which=ANY)
    def a_source_comes_to_its_turn(self, which: int) -> None:
        """Its pause is over, or its fetcher fell silent."""
        job = latest([job for job in self.model.jobs.values() if job.is_fetching and not job.is_fetch_due], which)
        job.is_fetch_due = True
        self.run_out("fetching", job.new.id)

    # Deliveries

    @rule(who=st.sampled_from(DISPATCHERS), busy_hosts=st.sets(st.sampled_from(HOSTS), max_size=1))
    def take_delivery(self, who: str, busy_hosts: set[str]) -> None:
        expected: tuple[str, int] | None = None
        for delivery_id in self.was.due("outbox"):
            delivery = self.model.deliveries[delivery_id]
            if delivery.host in busy_hosts:
                continue
            losses = delivery.losses + (delivery.sender not in (None, who))
            if losses < MAX_LOSSES:
                delivery.token, delivery.sender, delivery.losses, delivery.is_due = delivery.token + 1, who, losses, False
                expected = delivery_id, delivery.token
                break
            delivery.tries, delivery.sender, delivery.outcome = delivery.tries + 1, None, "failed"
        take = self.outbox.claim(Lease(who, LEASE_S, MAX_LOSSES), busy_hosts=busy_hosts)
        assert (take and (take.id, take.token)) == expected
        if take:
            self.sent.append(take)

    @precondition(lambda self: self.sent)
    @rule(which=SOME, renew=st.booleans())
    def beat_deliveries(self, which: list[int], renew: bool) -> None:
        takes = [latest(self.sent, one) for one in which]
        held = [self.sending(take) for take in takes]
        for delivery in filter(None, held):
            delivery.is_due = delivery.is_due and not renew
        assert self.outbox.beat(takes, lease_s=LEASE_S, renew=renew) == tuple(map(bool, held))

    @precondition(lambda self: self.sent)
    @rule(which=ANY, how=st.sampled_from([DeliveryState.DELIVERED, DeliveryState.STOPPED]), loses_reply=LOSES_REPLY)
    def end_delivery(self, which: int, how: DeliveryState, loses_reply: bool) -> None:
        take = latest(self.sent, which)
        expected = self.delivery_ended(take, how, is_due=False)
        assert self.done(lambda: self.outbox.end(take, how, Answer(status=200)), loses_reply) == expected

    @precondition(lambda self: self.sent)
    @rule(which=ANY, pause_s=st.sampled_from([0, LEASE_S]), has_patience=st.booleans(), loses_reply=LOSES_REPLY)
    def retry_delivery(self, which: int, pause_s: float, has_patience: bool, loses_reply: bool) -> None:
        take = latest(self.sent, which)
        outcome, patience_s = (DeliveryState.PENDING, 86400) if has_patience else (DeliveryState.FAILED, 0)
        expected = self.delivery_ended(take, outcome, is_due=not pause_s)
        send = partial(self.outbox.retry, take, Answer(status=500), pause_s=pause_s, patience_s=patience_s)
        assert self.done(send, loses_reply) == expected

    @precondition(lambda self: self.sent)
    @rule(which=ANY, loses_reply=LOSES_REPLY)
    def release_delivery(self, which: int, loses_reply: bool) -> None:
        take = latest(self.sent, which)
        delivery = self.sending(take)
        if delivery:
            delivery.sender, delivery.is_due = None, True
        reply = self.done(lambda: self.outbox.release(take), loses_reply, may_be_lost=True)
        assert reply == (DeliveryState.PENDING if delivery else None)

    @precondition(lambda self: any(not delivery.is_due and delivery.outcome == "pending" for delivery in self.model.deliveries.values()))
    @rule(which=ANY)
    def a_delivery_comes_to_its_turn(self, which: int) -> None:
        waiting = [item for item in self.model.deliveries.items() if not item[1].is_due and item[1].outcome == "pending"]
        delivery_id, delivery = latest(waiting, which)
        delivery.is_due = True
        self.run_out("outbox", delivery_id)

    def delivery_ended(self, take: Delivery, outcome: DeliveryState, *, is_due: bool) -> DeliveryState | None:
        """What the end of this try must answer, and has changed."""
        delivery = self.model.deliveries.get(take.id)
        if delivery and delivery.ended == take.token:
            return DeliveryState(delivery.outcome)
        if delivery is None or not self.sending(take):
            return None
        delivery.ended, delivery.sender, delivery.outcome, delivery.is_due = take.token, None, outcome, is_due
        delivery.tries += 1
        return outcome

    def fetching(self, take: Job) -> ModelJob | None:
        job = self.model.jobs.get(take.id)
        return job if job and job.is_fetched_by(take) else None

    def fetch_ended_by(self, take: Job) -> JobState | None:
        job = self.model.jobs.get(take.id)
        return job.state if job and job.fetch_ended == take.fetch else None

    def sending(self, take: Delivery) -> ModelDelivery | None:
        delivery = self.model.deliveries.get(take.id)
        is_theirs = delivery and delivery.outcome == "pending" and delivery.sender and delivery.token == take.token
        return delivery if is_theirs else None
