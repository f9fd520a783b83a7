"""What the next dispatcher makes of the calls that it finds, whatever became of their jobs and of Redis meanwhile."""

import threading

import pytest

from core.errors import StoreUnavailable
from core.job import JobState
from tests.dispatcher.burst.box import DOLLARS_PER_S, RESERVE_USD, SCALEDOWN_S, BurstBox, state
from tests.modal_server import Conduct


def test_a_record_that_breaks_while_its_call_runs_holds_up_no_other(box: BurstBox) -> None:
    whole, broken, ends = box.box.submit(), box.box.submit(), threading.Event()
    box.server.conducts = [Conduct(ends=ends)]
    box.begin(whole, broken)
    box.call_kept()
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


def test_a_clock_that_was_set_back_meanwhile_earns_no_money(box: BurstBox) -> None:
    job = box.box.submit()
    box.server.conducts = [Conduct(ends=threading.Event())]
    box.begin(job)
    box.call_kept()
    box.bridge.close()
    box.box.redis.hincrby(f"spillway:burst:{box.bursts.under_way()[0].id}", "called_at", 3_600_000)
    box.store.cancel(job.id)
    box.bridge = box.another()
    box.until_settled()
    assert DOLLARS_PER_S * SCALEDOWN_S <= box.ledger().spent_usd < RESERVE_USD


def test_a_call_keeps_the_time_that_it_was_given(box: BurstBox) -> None:
    """Whatever the next dispatcher knows of Modal's speed, and however few of the call's jobs are still wanted."""
    wanted, gone, ends = box.box.submit(), box.box.submit(), threading.Event()
    box.server.conducts = [Conduct(ends=ends)]
    box.begin(wanted, gone, deadline_s=3000)
    call_id = box.call_kept()
    box.bridge.close()
    box.box.redis.hincrby(f"spillway:burst:{box.bursts.under_way()[0].id}", "called_at", -2_000_000)
    box.store.delete(gone.id)
    box.bridge, asked = box.another(), len(box.server.heard)
    box.step_until(lambda: box.server.heard[asked:].count("FunctionGetOutputs") > 3, "the call to be asked for some times")
    assert not box.server.calls[call_id].is_cancelled.is_set()
    ends.set()
    box.until_settled()
    assert state(box, wanted) == (JobState.SUCCEEDED, 1, 0, 0)
