"""Jobs taken for Modal and the money that calls may cost, on a real server."""

import threading
import time
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from core.bursts import Burst, Bursts, Caps, DayOfLedger, OverCap
from core.job import Job, JobState, Priority
from core.job_store import JobStore, Runner
from core.redis_steps import RedisClient
from tests.core.jobs import ALICE, ROOM_S, beat, claim, submit

MODAL = Runner("modal", "bridge")
PLENTY = Caps(day_usd=1.0, month_usd=25.0)


@pytest.fixture
def bursts(redis: RedisClient, store: JobStore) -> Bursts:
    return Bursts(redis, store)


def intend(bursts: Bursts, *jobs: Job, burst_id: str = "", reserve_usd: float = 0.1, caps: Caps = PLENTY) -> Burst:
    burst = bursts.intend(
        burst_id or uuid4().hex, [job.id for job in jobs], MODAL, lease_s=60, deadline_s=180, reserve_usd=reserve_usd, caps=caps
    )
    assert isinstance(burst, Burst)
    return burst


def today(bursts: Bursts) -> tuple[float, float]:
    """Spent and reserved, over all days of this month."""
    days = bursts.ledger(time.strftime("%Y-%m", time.gmtime()))
    return sum(day.spent_usd for day in days), sum(day.reserved_usd for day in days)


def test_the_jobs_of_a_call_are_claimed_and_its_cost_is_reserved(store: JobStore, bursts: Bursts) -> None:
    jobs = [submit(store) for _ in range(3)]
    burst = intend(bursts, jobs[0], jobs[2])
    assert burst.jobs == ((jobs[0].id, 1), (jobs[2].id, 1))
    assert [store.get(job.id).state for job in jobs] == [JobState.RUNNING, JobState.QUEUED, JobState.RUNNING]
    assert (store.get(jobs[0].id).runner, store.get(jobs[0].id).owner) == ("modal", MODAL.owner)
    assert beat(store, store.get(jobs[2].id)) == "held"
    assert today(bursts) == (0, 0.1)
    assert claim(store).id == jobs[1].id


def test_the_same_intent_again_takes_and_reserves_nothing_more(store: JobStore, bursts: Bursts) -> None:
    job, other = submit(store), submit(store)
    first = intend(bursts, job, burst_id="b")
    assert intend(bursts, job, other, burst_id="b") == first
    assert (store.get(job.id).attempt, store.get(other.id).state) == (1, JobState.QUEUED)
    assert today(bursts) == (0, 0.1)


def test_jobs_that_somebody_else_took_are_left_out(store: JobStore, bursts: Bursts) -> None:
    taken, cancelled, deleted, free = (submit(store) for _ in range(4))
    assert claim(store).id == taken.id
    store.cancel(cancelled.id)
    store.delete(deleted.id)
    assert intend(bursts, taken, cancelled, deleted, free).jobs == ((free.id, 1),)
    assert store.get(taken.id).owner == ALICE.owner


def test_a_call_without_jobs_is_none_and_costs_nothing(store: JobStore, bursts: Bursts) -> None:
    job = submit(store)
    claim(store)
    assert bursts.intend("b", [job.id], MODAL, lease_s=60, deadline_s=180, reserve_usd=0.1, caps=PLENTY) is None
    assert (today(bursts), bursts.under_way()) == ((0, 0), ())


def test_a_burst_and_a_local_claim_never_get_the_same_job(store: JobStore, bursts: Bursts) -> None:
    jobs = [submit(store) for _ in range(40)]
    got: list[str] = []

    def local() -> None:
        while job := store.claim(ALICE, lease_s=60, fits_s=1e9):
            got.append(job.id)

    def away(some: list[Job]) -> None:
        burst = bursts.intend(uuid4().hex, [job.id for job in some], MODAL, lease_s=60, deadline_s=180, reserve_usd=0.001, caps=PLENTY)
        if isinstance(burst, Burst):
            got.extend(job_id for job_id, _ in burst.jobs)

    threads = [threading.Thread(target=local), *(threading.Thread(target=away, args=(jobs[start::4],)) for start in range(4))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted(job.id for job in jobs)
    assert store.backlog().queued_audio_s == 0


@pytest.mark.parametrize(("caps", "fits"), [(Caps(0.25, 25), 2), (Caps(1, 0.35), 3), (Caps(0, 25), 0)], ids=["day", "month", "nothing"])
def test_no_race_spends_beyond_a_cap(store: JobStore, bursts: Bursts, caps: Caps, fits: int) -> None:
    jobs = [submit(store) for _ in range(8)]
    replies: list[Burst | OverCap | None] = []
    threads = [
        threading.Thread(
            target=lambda job=job: replies.append(
                bursts.intend(job.id, [job.id], MODAL, lease_s=60, deadline_s=180, reserve_usd=0.1, caps=caps)
            )
        )
        for job in jobs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(reply, Burst) for reply in replies) == fits
    assert next(reply for reply in replies if isinstance(reply, OverCap)).day_usd == pytest.approx(fits * 0.1)
    assert store.backlog().queued_jobs == len(jobs) - fits


def test_a_cap_counts_what_was_spent_and_what_may_still_be(store: JobStore, bursts: Bursts) -> None:
    first, second, third = (submit(store) for _ in range(3))
    bursts.settle(intend(bursts, first, reserve_usd=0.5).id, cost_usd=0.2)
    intend(bursts, second, reserve_usd=0.5)
    assert bursts.intend("c", [third.id], MODAL, lease_s=60, deadline_s=180, reserve_usd=0.4, caps=PLENTY) == OverCap(
        day_usd=0.7, month_usd=0.7
    )
    assert store.get(third.id).state == JobState.QUEUED


def test_a_burst_is_settled_once_at_its_true_cost(store: JobStore, bursts: Bursts) -> None:
    burst = intend(bursts, submit(store))
    assert bursts.called(burst.id, "fc-1")
    assert [found.call_id for found in bursts.under_way()] == ["fc-1"]
    assert bursts.settle(burst.id, cost_usd=0.031)
    assert not bursts.settle(burst.id, cost_usd=0.031)
    assert not bursts.called(burst.id, "fc-1")
    assert (today(bursts), bursts.under_way()) == ((0.031, 0), ())


def test_a_burst_whose_cost_nobody_knows_costs_what_was_reserved(store: JobStore, bursts: Bursts) -> None:
    bursts.settle(intend(bursts, submit(store)).id, cost_usd=None)
    assert today(bursts) == (0.1, 0)


@pytest.mark.parametrize(("day", "of_month"), [("2026-11-24", 0.9), ("2027-01-01", 0.0)])
def test_a_call_over_midnight_belongs_to_the_day_on_which_it_began(
    store: JobStore, bursts: Bursts, monkeypatch: pytest.MonkeyPatch, day: str, of_month: float
) -> None:
    midnight = datetime.fromisoformat(day).replace(tzinfo=UTC)
    monkeypatch.setattr(store, "clock_s", lambda: midnight.timestamp() - 1)
    before, over_midnight = bursts.today(), intend(bursts, submit(store), reserve_usd=0.9)
    monkeypatch.setattr(store, "clock_s", midnight.timestamp)
    assert (bursts.today(), bursts.committed_usd()) == (day, (0, of_month))
    intend(bursts, submit(store), reserve_usd=0.8)
    bursts.settle(over_midnight.id, cost_usd=0.4)
    assert DayOfLedger(before, spent_usd=0.4, reserved_usd=0, calls=1, jobs=1) in bursts.ledger(before[:7])
    assert DayOfLedger(day, spent_usd=0, reserved_usd=0.8, calls=1, jobs=1) in bursts.ledger(day[:7])


def test_bursts_under_way_are_found_by_whoever_comes_after(store: JobStore, bursts: Bursts, redis: RedisClient) -> None:
    first, second = intend(bursts, submit(store)), intend(bursts, submit(store))
    assert [burst.id for burst in Bursts(redis, store).under_way()] == [first.id, second.id]
    assert bursts.under_way()[0] == first


def test_a_job_that_comes_back_from_a_burst_waits_at_its_old_place_and_says_so(store: JobStore, bursts: Bursts) -> None:
    job, later = submit(store), submit(store)
    intend(bursts, job)
    store.release(store.get(job.id), is_burst_failed=True)
    back = store.get(job.id)
    assert (back.state, back.losses, back.burst_failures, back.attempt) == (JobState.QUEUED, 0, 1, 1)
    assert [claim(store).id, claim(store).id] == [job.id, later.id]
    assert store.get(job.id).runner == "local"


def test_a_burst_of_one_key_does_not_hold_up_the_others(store: JobStore, bursts: Bursts) -> None:
    dump = [submit(store, key_id="a") for _ in range(4)]
    other = submit(store, key_id="b")
    intend(bursts, *dump[1:3])
    assert claim(store).id in (dump[0].id, other.id)
    assert {claim(store).id, claim(store).id} <= {dump[0].id, other.id, dump[3].id}


def test_a_jobs_place_is_left_whole_when_modal_takes_the_last_of_a_priority(store: JobStore, bursts: Bursts, redis: RedisClient) -> None:
    job = submit(store, priority=Priority.HIGH)
    intend(bursts, job)
    assert not redis.exists("spillway:pending:high", "spillway:lanes:high", "spillway:lane:high:anonymous")
    assert store.claim(ALICE, lease_s=60, fits_s=ROOM_S) is None


def test_what_modal_does_says_nothing_of_the_speed_of_this_box(store: JobStore, bursts: Bursts) -> None:
    burst = intend(bursts, submit(store))
    store.succeed(store.get(burst.jobs[0][0]), result_key="r")
    assert store.backlog().real_time_factor is None


def test_jobs_side_by_side_count_their_workers_time_once(store: JobStore, redis: RedisClient) -> None:
    for _ in range(4):
        submit(store, duration_s=100)
    jobs = [claim(store) for _ in range(4)]
    now_ms = store.clock_s() * 1000
    redis.hset("spillway:busy_since", ALICE.slot, round(now_ms - 10_000))
    for job in jobs:
        store.succeed(job, result_key="r")
    speed = store.backlog().real_time_factor
    assert speed is not None
    assert 30 < speed < 50
    assert not redis.hexists("spillway:busy_since", ALICE.slot)
