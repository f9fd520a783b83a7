"""What the next dispatcher makes of the calls that it finds, whatever became of their jobs and of Redis meanwhile."""

import threading

import pytest

from core.errors import StoreUnavailable
from core.job import JobState
from tests.dispatcher.burst.box import BurstBox, state
from tests.dispatcher.burst.test_bad_moments import call_kept
from tests.modal_server import Conduct


def test_a_record_that_breaks_while_its_call_runs_holds_up_no_other(box: BurstBox) -> None:
    whole, broken, ends = box.box.submit(), box.box.submit(), threading.Event()
    box.server.conducts = [Conduct(ends=ends)]
    box.begin(whole, broken)
    call_kept(box)
    box.bridge.close()
    box.box.redis.hset(f"spillway:job:{broken.id}", "fixed", "not JSON")
    box.bridge = box.another()
    ends.set()
    box.until_settled()
    assert state(box, whole) == (JobState.SUCCEEDED, 1, 0, 0)
    assert (box.ledger().reserved_usd, box.ledger().calls) == (0, 1)
    box.box.redis.zadd("spillway:leases", {broken.id: 1})
    assert box.store.reclaim_expired(max_losses=3) == {broken.id: JobState.FAILED}


def test_a_redis_that_goes_between_intent_and_call_costs_nothing(box: BurstBox, monkeypatch: pytest.MonkeyPatch) -> None:
    job = box.box.submit()

    def away(_: str) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as broken:
        broken.setattr(box.store, "get", away)
        with pytest.raises(StoreUnavailable):
            box.begin(job)
    box.until_settled()
    assert (state(box, job), box.server.calls) == ((JobState.QUEUED, 1, 0, 0), {})
    assert (box.ledger().spent_usd, box.ledger().reserved_usd) == (0, 0)
