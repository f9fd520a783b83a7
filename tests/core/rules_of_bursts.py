"""What a bridge to Modal does to jobs and to the ledger, in Redis and in the model; its takes end as every runner's do."""

from functools import partial
from uuid import uuid4

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from core.bursts import MICRO, Burst, Caps, OverCap
from core.job_store import Runner
from core.redis_steps import RedisClient
from tests.core.recorded import Recorded
from tests.core.rules_of_jobs import JobRules
from tests.core.store_machine import ANY, LEASE_S, LOSES_REPLY, SOME, latest, sum_of_days
from tests.core.store_model import ModelJob

BRIDGE = Runner("modal", "bridge")
RESERVES_USD, COSTS_USD = st.sampled_from([0.0, 0.25, 0.7]), st.sampled_from([None, 0.0, 0.1, 0.9])
CAPS = st.builds(Caps, day_usd=st.sampled_from([0.5, 1.0, 5.0]), month_usd=st.sampled_from([0.5, 2.0, 25.0]))


class BurstRules(JobRules):
    def __init__(self, redis: RedisClient) -> None:
        super().__init__(redis)
        self.intended: list[str] = []  # all bursts that there ever were, the oldest first

    @precondition(lambda self: self.model.jobs)
    @rule(which=SOME, reserve_usd=RESERVES_USD, caps=CAPS, loses_reply=LOSES_REPLY)
    def intend(self, which: list[int], reserve_usd: float, caps: Caps, loses_reply: bool) -> None:
        """Whatever jobs: those that are not pending any more are left out."""
        burst_id, asked = uuid4().hex, [latest(list(self.model.jobs.values()), one) for one in which]
        send = partial(
            self.bursts.intend,
            burst_id,
            [job.new.id for job in asked],
            BRIDGE,
            lease_s=LEASE_S,
            deadline_s=180,
            reserve_usd=reserve_usd,
            caps=caps,
        )
        reserve, committed = round(reserve_usd * MICRO), self.model.committed
        if committed + reserve > round(min(caps.day_usd, caps.month_usd) * MICRO):
            assert self.done(send, loses_reply) == OverCap(committed / MICRO, committed / MICRO)
        elif taken := list({job.new.id: job for job in asked if job.is_pending}.values()):
            self.model.intend(burst_id, taken, BRIDGE, reserve)
            self.begin(self.done(send, loses_reply), taken, caps)
        else:
            assert self.done(send, loses_reply) is None

    def begin(self, burst: Burst | OverCap | None, taken: list[ModelJob], caps: Caps) -> None:
        assert isinstance(burst, Burst)
        assert burst.jobs == tuple((job.new.id, job.attempt) for job in taken)
        posted = sum_of_days(Recorded(self.redis))
        assert posted["reserved"] + posted["spent"] <= min(caps.day_usd, caps.month_usd) * MICRO
        self.intended.append(burst.id)
        self.claims += [("", BRIDGE, self.store.get(job.new.id)) for job in taken]

    @precondition(lambda self: self.intended)
    @rule(which=ANY, call_id=st.sampled_from(["fc-1", "fc-2"]), loses_reply=LOSES_REPLY)
    def call(self, which: int, call_id: str, loses_reply: bool) -> None:
        burst_id = latest(self.intended, which)
        is_under_way = burst_id in self.model.bursts
        assert self.done(lambda: self.bursts.called(burst_id, call_id), loses_reply) == is_under_way
        calls = {burst.id: burst.call_id for burst in self.bursts.under_way()}
        assert calls.keys() == self.model.bursts.keys()
        assert not is_under_way or calls[burst_id] == call_id

    @precondition(lambda self: self.intended)
    @rule(which=ANY, cost_usd=COSTS_USD, loses_reply=LOSES_REPLY)
    def settle(self, which: int, cost_usd: float | None, loses_reply: bool) -> None:
        """Once, whatever became of its jobs."""
        burst_id = latest(self.intended, which)
        is_under_way = burst_id in self.model.bursts
        if is_under_way:
            self.model.settle(burst_id, None if cost_usd is None else round(cost_usd * MICRO))
        assert self.done(lambda: self.bursts.settle(burst_id, cost_usd=cost_usd), loses_reply, again=lambda _: False) == is_under_way
