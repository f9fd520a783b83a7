"""What the rules of the store's state machine share: Redis, the model beside it, and what must hold after every step."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant

from core.bursts import Bursts
from core.fetches import Fetches
from core.job import JobFailure, JobState
from core.job_store import JobStore
from core.outbox import Outbox
from core.redis_steps import NAMESPACE, RedisClient
from core.retention import Kept, Retention
from tests.core.recorded import Recorded
from tests.core.store_model import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED, StoreModel

Taken = TypeVar("Taken")
ARROWS = {(QUEUED, RUNNING), (RUNNING, QUEUED), (RUNNING, SUCCEEDED), (RUNNING, FAILED), (RUNNING, CANCELLED), (QUEUED, CANCELLED)}
ARROWS |= {(QUEUED, FAILED)}  # a source that cannot be had
SHOWN = ("state", "stage", "progress", "attempt", "losses", "cancel_requested", "result_key", "error", "fetched")  # to who watches a job
COUNTED = ("seq", "work_ms", "attempt", "losses", "failures", "fetch", "fetch_losses", "fetch_failures", "burst_failures")
BROKE = JobFailure(code="engine_failed", message="m")
LEASE_S, MAX_LOSSES, MAX_FAILURES = 3600.0, 3, 2
ANY = st.integers(0, 5)  # which of the latest; most steps are about what just happened, some about what is long over
SOME = st.lists(ANY, min_size=1, max_size=3)
WORK_S = st.sampled_from([0.0001, 5.0, 20.0, 60.0])
LOSES_REPLY = st.booleans()


class StoreMachine(RuleBasedStateMachine):
    """Its rules, in the files beside, are called in any order, by whatever acts on the store at once."""

    def __init__(self, redis: RedisClient) -> None:
        super().__init__()
        redis.flushall()
        self.redis, self.store = redis, JobStore(redis)
        self.fetches, self.outbox = Fetches(redis, self.store), Outbox(redis, self.store)
        self.retention, self.bursts = Retention(redis), Bursts(redis, self.store)
        self.model = StoreModel()
        self.was = Recorded(redis)
        self.may_lose = False  # whether the last step was one that may count a loss

    def run_out(self, leases: str, member: str) -> None:
        """As if its time had passed: nobody sleeps here."""
        self.redis.zadd(f"{NAMESPACE}:{leases}", {member: self.was.places(leases)[member] - 2 * 1000 * LEASE_S})

    def done(
        self, send: Callable[[], Taken], loses_reply: bool, *, again: Callable[[Taken], object] | None = None, may_be_lost: bool = False
    ) -> Taken:
        """What the step answers; when that gets lost, the same call comes once more and must change nothing."""
        first = send()
        if loses_reply:
            after = Recorded(self.redis)
            answers = [again(first) if again else first, *([None] if may_be_lost else [])]
            assert send() in answers
            assert Recorded(self.redis) == after
        return first

    def is_refused(self, send: Callable[[], object], error: type[Exception]) -> None:
        before = Recorded(self.redis)
        with pytest.raises(error):
            send()
        assert Recorded(self.redis) == before

    # What holds after every step

    @invariant()
    def look(self) -> None:
        was, now = self.was, Recorded(self.redis)
        now.check()
        for job_id in was.jobs.keys() & now.jobs.keys():
            self.check_change(was.jobs[job_id], now.jobs[job_id])
        self.check_model(now)
        self.was, self.may_lose = now, False

    def check_change(self, before: dict[str, str], after: dict[str, str]) -> None:
        """By one step of one job: what no model needs to be asked about."""
        state, then = JobState(before["state"]), JobState(after["state"])
        assert state is then or (state, then) in ARROWS
        assert not state.is_terminal or without_products(before) == without_products(after)
        assert int(after["attempt"]) - int(before["attempt"]) == ((state, then) == (QUEUED, RUNNING))
        assert int(after["losses"]) - int(before["losses"]) in ((0, 1) if self.may_lose else (0,))
        is_shown = any(before.get(name) != after.get(name) for name in SHOWN)
        assert int(after["version"]) > int(before["version"]) if is_shown else after["version"] == before["version"]

    def check_model(self, now: Recorded) -> None:
        jobs, deliveries = self.model.jobs, self.model.deliveries
        assert {job_id: as_model(record) for job_id, record in now.jobs.items()} == {job_id: job.fields() for job_id, job in jobs.items()}
        assert {id_: as_sent(record) for id_, record in now.deliveries.items()} == {id_: each.fields() for id_, each in deliveries.items()}
        assert set(now.due("leases")) == {id_ for id_, job in jobs.items() if job.state is RUNNING and not job.has_lease}
        assert set(now.due("fetching")) == {id_ for id_, job in jobs.items() if job.is_fetching and job.is_fetch_due}
        assert set(now.due("outbox")) == {id_ for id_, each in deliveries.items() if each.is_due and each.outcome == "pending"}
        kept = {what: {id_ for id_, job in jobs.items() if what in job.kept} for what in Kept}
        assert {what: set(now.places(f"kept:{what}")) for what in Kept} == kept
        assert set(now.places("kept:results")) - set(now.due("kept:results")) == {
            id_ for id_, job in jobs.items() if job.results_are_held_back
        }
        assert now.under("burst:").keys() == self.model.bursts.keys()
        assert sum_of_days(now) == +self.model.ledger
        counted = {name: int(by) for name, by in now.all.get("counters", {}).items()}
        assert {name: counted.get(name, 0) for name in self.model.totals} == self.model.totals


def latest(found: Sequence[Taken], which: int) -> Taken:
    return found[-1 - which % len(found)]


def without_products(record: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in record.items() if not name.startswith("product")}


def sum_of_days(now: Recorded) -> Counter[str]:
    """What was posted to the ledger, of all days together."""
    posted = [(entry.rpartition(":")[2], int(by)) for month in now.under("ledger:").values() for entry, by in month.items()]
    total: Counter[str] = Counter()
    for what, by in posted:
        total[what] += by
    return +total


def as_model(record: dict[str, str]) -> dict[str, object]:
    return {
        **{name: record.get(name) for name in ("stage", "owner", "slot", "result_key", "fetch_owner")},
        **{name: int(record.get(name, 0)) for name in COUNTED},
        "state": record["state"], "progress": float(record["progress"]), "cancel_requested": "cancel_requested" in record,
        "error": json.loads(record["error"])["code"] if "error" in record else None,
        "products": {name.removeprefix("product:"): key for name, key in record.items() if name.startswith("product:")},
    }  # fmt: skip


def as_sent(record: dict[str, str]) -> tuple[object, ...]:
    numbers = (int(record.get(name, 0)) for name in ("take", "losses", "tries"))
    return (*numbers, record.get("owner"), record.get("outcome", "pending"))
