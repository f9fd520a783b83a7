"""The contract of every step that a delivery goes through, on a real server."""

import json
import time

import pytest
from redis.exceptions import ResponseError

from core.errors import IdempotencyConflict, StoreUnavailable
from core.figures import Figures
from core.job import Job, JobFailure
from core.job_store import JobStore
from core.leased import Lease
from core.outbox import Answer, Delivery, DeliveryState, Outbox
from core.redis_steps import RedisClient, connect
from tests.core.jobs import claim, new_job, submit

ONE, OTHER = Lease("one", 60, 3), Lease("other", 60, 3)
EXPIRED = Lease("one", 0, 3)  # its lease is over in the moment that it begins
REFUSED = Answer(status=500, error="the receiver did not take it")
DAY_S = 86400.0


@pytest.fixture
def outbox(redis: RedisClient, store: JobStore) -> Outbox:
    return Outbox(redis, store)


def webhook(host: str = "example.org") -> dict[str, object]:
    return {"kind": "webhook", "target": f"https://{host}/hook?token=secret", "host": host}


def ended(store: JobStore, *hosts: str) -> Job:
    """A job that has failed and owes a webhook to each host."""
    submit(store, deliveries=tuple(map(webhook, hosts or ("example.org",))))
    job = claim(store)
    store.fail(job, JobFailure(code="invalid_media", message="broken"))
    time.sleep(0.002)  # the turn goes by milliseconds of Redis' clock
    return store.get(job.id)


def taken(outbox: Outbox, lease: Lease = ONE, *busy_hosts: str) -> Delivery:
    delivery = outbox.claim(lease, busy_hosts=busy_hosts)
    assert delivery is not None
    return delivery


def retried(outbox: Outbox, delivery: Delivery, pause_s: float = 0.0) -> DeliveryState | None:
    return outbox.retry(delivery, REFUSED, pause_s=pause_s, patience_s=DAY_S)


def test_nothing_is_delivered_before_the_job_has_ended(store: JobStore, outbox: Outbox) -> None:
    job = submit(store, deliveries=(webhook(),))
    assert outbox.claim(ONE) is None
    (delivery,) = outbox.of_job(job)
    assert (delivery.state, delivery.attempts, delivery.next_try_at) == (DeliveryState.PENDING, (), None)


def test_a_job_that_owes_nothing_has_no_deliveries(store: JobStore, outbox: Outbox) -> None:
    assert outbox.of_job(submit(store)) == ()


@pytest.mark.parametrize("is_running", [False, True])
def test_a_cancel_is_an_end_too(store: JobStore, outbox: Outbox, is_running: bool) -> None:
    job = submit(store, deliveries=(webhook(),))
    running = claim(store) if is_running else None
    store.cancel(job.id)
    if running:
        store.end_cancelled(running)
    assert taken(outbox).job.state == "cancelled"


def test_a_delivery_is_taken_by_one_and_its_id_stays(store: JobStore, outbox: Outbox) -> None:
    job = ended(store)
    first = taken(outbox)
    assert (first.id, first.job, first.owed.host, first.token) == (f"{job.id}:1", job, "example.org", 1)
    assert outbox.claim(OTHER) is None
    assert outbox.of_job(job)[0].next_try_at is None, "it is being tried"
    retried(outbox, first)
    again = taken(outbox, OTHER)
    assert (again.id, again.token) == (first.id, 2)


def test_those_that_wait_longest_go_first(store: JobStore, outbox: Outbox) -> None:
    ids = [f"{ended(store).id}:1" for _ in range(3)]
    assert [taken(outbox).id for _ in range(3)] == ids


def test_what_is_due_goes_by_the_clock_of_redis(store: JobStore, outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    job = ended(store)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert taken(outbox).job.id == job.id


def test_a_delivered_one_is_over(store: JobStore, outbox: Outbox, redis: RedisClient) -> None:
    job = ended(store)
    before = time.time()
    assert outbox.end(taken(outbox), DeliveryState.DELIVERED, Answer(status=204)) == DeliveryState.DELIVERED
    (delivery,) = outbox.of_job(job)
    (attempt,) = delivery.attempts
    assert (delivery.state, delivery.next_try_at, attempt.status, attempt.error) == (DeliveryState.DELIVERED, None, 204, None)
    assert attempt.at == pytest.approx(before, abs=2)
    assert (outbox.claim(ONE), redis.zcard("spillway:outbox"), redis.zcard("spillway:undelivered")) == (None, 0, 0)
    assert Figures(redis).snapshot().totals["deliveries:delivered"] == 1


def test_a_failed_try_is_kept_and_repeated_after_its_pause(store: JobStore, outbox: Outbox, redis: RedisClient) -> None:
    job = ended(store)
    assert retried(outbox, taken(outbox)) == DeliveryState.PENDING
    assert retried(outbox, taken(outbox), pause_s=60) == DeliveryState.PENDING
    assert outbox.claim(ONE) is None
    (delivery,) = outbox.of_job(job)
    assert [(attempt.status, attempt.error) for attempt in delivery.attempts] == [(500, REFUSED.error)] * 2
    assert delivery.next_try_at == pytest.approx(time.time() + 60, abs=5)
    assert redis.zscore("spillway:undelivered", delivery.id) == pytest.approx((job.finished_at or 0) * 1000)


def test_the_last_try_is_when_patience_ends_and_then_it_is_given_up(store: JobStore, outbox: Outbox) -> None:
    job = ended(store)
    assert outbox.retry(taken(outbox), REFUSED, pause_s=3600, patience_s=60) == DeliveryState.PENDING
    assert job.finished_at is not None
    assert outbox.of_job(job)[0].next_try_at == pytest.approx(job.finished_at + 60, abs=0.01)


def test_after_the_last_try_it_is_given_up(store: JobStore, outbox: Outbox) -> None:
    job = ended(store)
    assert outbox.retry(taken(outbox), REFUSED, pause_s=1, patience_s=0) == DeliveryState.FAILED
    assert (outbox.of_job(job)[0].state, outbox.claim(ONE)) == (DeliveryState.FAILED, None)


def test_ending_a_try_twice_is_ending_it_once(store: JobStore, outbox: Outbox) -> None:
    job = ended(store)
    delivery = taken(outbox)
    assert retried(outbox, delivery) == retried(outbox, delivery) == DeliveryState.PENDING
    again = taken(outbox)
    for _ in range(2):
        assert outbox.end(again, DeliveryState.DELIVERED, Answer(status=200)) == DeliveryState.DELIVERED
    assert len(outbox.of_job(job)[0].attempts) == 2
    assert retried(outbox, delivery) is None


def test_a_lost_delivery_never_overwrites_the_winner(store: JobStore, outbox: Outbox) -> None:
    job = ended(store)
    loser, winner = taken(outbox, EXPIRED), taken(outbox, OTHER)
    assert outbox.beat([loser, winner], lease_s=60, renew=True) == (False, True)
    assert (outbox.end(loser, DeliveryState.STOPPED, REFUSED), retried(outbox, loser), outbox.release(loser)) == (None, None, None)
    assert outbox.end(winner, DeliveryState.DELIVERED, Answer(status=200)) == DeliveryState.DELIVERED
    assert len(outbox.of_job(job)[0].attempts) == 1


def test_a_renewed_delivery_is_not_taken_by_another(store: JobStore, outbox: Outbox) -> None:
    ended(store)
    delivery = taken(outbox, EXPIRED)
    assert outbox.beat([delivery], lease_s=60, renew=True) == (True,)
    assert outbox.claim(OTHER) is None


def test_a_beat_without_renewal_writes_nothing(store: JobStore, outbox: Outbox, redis: RedisClient) -> None:
    ended(store)
    delivery = taken(outbox)
    before = redis.info("persistence")["aof_current_size"]
    assert outbox.beat([delivery], lease_s=60, renew=False) == (True,)
    assert outbox.beat([], lease_s=60, renew=True) == ()
    assert redis.info("persistence")["aof_current_size"] == before


def test_a_hand_back_counts_no_try(store: JobStore, outbox: Outbox) -> None:
    job = ended(store)
    released = taken(outbox)
    assert outbox.release(released) == DeliveryState.PENDING
    assert outbox.end(released, DeliveryState.DELIVERED, Answer(status=200)) is None
    for _ in range(5):
        outbox.release(taken(outbox, OTHER))
    assert taken(outbox).attempts == outbox.of_job(job)[0].attempts == ()


def test_one_that_keeps_killing_its_sender_is_given_up(store: JobStore, outbox: Outbox) -> None:
    poison = ended(store)
    for life in range(3):
        assert taken(outbox, Lease(f"life {life}", 0, 3)).job.id == poison.id
    good = ended(store)
    assert taken(outbox).job.id == good.id
    (delivery,) = outbox.of_job(poison)
    assert (delivery.state, delivery.attempts[-1].error) == (DeliveryState.FAILED, "the dispatcher died 3 times while it sent this")


def test_a_sender_that_takes_its_own_again_has_lost_nobody(store: JobStore, outbox: Outbox) -> None:
    ended(store)
    for _ in range(5):
        taken(outbox, EXPIRED)
    assert taken(outbox).token == 6


def test_a_busy_host_is_passed_over(store: JobStore, outbox: Outbox) -> None:
    slow, other = ended(store, "slow.example.org"), ended(store)
    assert taken(outbox, ONE, "slow.example.org").job.id == other.id
    assert outbox.claim(ONE, busy_hosts=["slow.example.org"]) is None
    assert taken(outbox).job.id == slow.id


@pytest.mark.parametrize("place", [-1, 1])
def test_however_many_wait_for_a_busy_host_the_others_come_to_their_turn(
    store: JobStore, outbox: Outbox, redis: RedisClient, place: int
) -> None:
    job, other = ended(store, "slow.example.org"), ended(store)
    redis.zadd("spillway:outbox", {f"{other.id}:1": place})
    slow = {"job": job.id, "what": json.dumps(webhook("slow.example.org")), "tries": 0}
    pipe = redis.pipeline()
    for number in range(2, 1502):
        pipe.hset(f"spillway:delivery:{job.id}:{number}", mapping=slow).zadd("spillway:outbox", {f"{job.id}:{number}": 0})
    pipe.execute()
    looks = [outbox.claim(ONE, busy_hosts=["slow.example.org"]) for _ in range(100)]
    assert [found.job.id for found in looks if found] == [other.id]


@pytest.mark.parametrize("is_taken", [False, True])
def test_a_deleted_job_owes_nothing(store: JobStore, outbox: Outbox, redis: RedisClient, is_taken: bool) -> None:
    job = ended(store)
    delivery = taken(outbox) if is_taken else outbox.of_job(job)[0]
    store.delete(job.id)
    assert outbox.beat([delivery], lease_s=60, renew=True) == (False,)
    assert outbox.end(delivery, DeliveryState.DELIVERED, Answer(status=200)) is None
    assert outbox.claim(OTHER) is None
    assert redis.keys("spillway:delivery:*") == []
    assert (redis.zcard("spillway:outbox"), redis.zcard("spillway:undelivered")) == (0, 0)


def test_a_place_without_a_record_does_not_stop_the_others(store: JobStore, outbox: Outbox, redis: RedisClient) -> None:
    gone, unknown, good = ended(store), ended(store), ended(store)
    redis.delete(f"spillway:job:{gone.id}", f"spillway:delivery:{unknown.id}:1")
    assert taken(outbox).job.id == good.id
    assert redis.zrange("spillway:outbox", 0, -1) == [f"{good.id}:1"]


@pytest.mark.parametrize("what", ["not JSON", "7"])
def test_a_delivery_whose_record_is_broken_is_given_up_and_stops_no_other(
    store: JobStore, outbox: Outbox, redis: RedisClient, what: str
) -> None:
    broken, good = ended(store), ended(store)
    redis.hset(f"spillway:delivery:{broken.id}:1", "what", what)
    assert taken(outbox).job.id == good.id
    assert outbox.of_job(broken)[0].state == DeliveryState.FAILED


def test_a_step_that_meets_a_broken_answer_changes_nothing(store: JobStore, outbox: Outbox, redis: RedisClient) -> None:
    ended(store)
    delivery = taken(outbox)
    before = redis.hgetall(f"spillway:delivery:{delivery.id}"), redis.zrange("spillway:outbox", 0, -1, withscores=True)
    with pytest.raises(ResponseError):
        outbox._steps.run("end_delivery", delivery.id, delivery.token, "delivered", "not JSON", 0, 0)
    assert (redis.hgetall(f"spillway:delivery:{delivery.id}"), redis.zrange("spillway:outbox", 0, -1, withscores=True)) == before


def test_the_same_key_with_another_callback_is_a_conflict(store: JobStore) -> None:
    first = store.submit(new_job(deliveries=(webhook(),)), max_queued=9, idempotency_key="k")[0]
    assert store.submit(new_job(deliveries=(webhook(),)), max_queued=9, idempotency_key="k") == (first, False)
    for other in (new_job(deliveries=(webhook("elsewhere.example.org"),)), new_job()):
        with pytest.raises(IdempotencyConflict):
            store.submit(other, max_queued=9, idempotency_key="k")


def test_a_server_that_is_away_is_said_to_be_away(store: JobStore) -> None:
    job = submit(store, deliveries=(webhook(),))
    away = connect("redis://127.0.0.1:1/0", retries=0)
    outbox = Outbox(away, JobStore(away))
    with pytest.raises(StoreUnavailable):
        outbox.claim(ONE)
    with pytest.raises(StoreUnavailable):
        outbox.of_job(job)
