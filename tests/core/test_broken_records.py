"""Records that lost a part: the step that meets one changes nothing, and nothing else stands still."""

from collections.abc import Callable

import pytest
from redis.exceptions import ResponseError

from core.errors import RecordBroken
from core.job import Job, JobFailure, JobState, Priority
from core.job_store import JobStore, Runner
from core.leased import Lease
from core.outbox import Outbox
from core.redis_steps import RedisClient
from tests.core.jobs import ALICE, ROOM_S, claim, submit

STEPS: dict[str, Callable[[JobStore, Job], object]] = {
    "succeed": lambda store, job: store.succeed(job, result_key="r"),
    "fail": lambda store, job: store.fail(job, JobFailure(code="c", message="m")),
    "retry": lambda store, job: store.retry(job, JobFailure(code="c", message="m"), max_failures=1),
}
RECLAIMS: dict[str, Callable[[JobStore], dict[str, JobState]]] = {
    "expired": lambda store: store.reclaim_expired(max_losses=3),
    "slot": lambda store: store.reclaim_slot(Runner("gpu0", "new"), max_losses=3),
}
BROKEN = ["not JSON", "{}", "7"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fixed", BROKEN)
def test_a_step_that_meets_a_broken_record_changes_nothing(store: JobStore, redis: RedisClient, step: str, fixed: str) -> None:
    submit(store)
    job = claim(store, lease_s=0)
    redis.hset(f"spillway:job:{job.id}", "fixed", fixed)
    before = snapshot(redis)
    with pytest.raises(ResponseError):
        STEPS[step](store, job)
    assert snapshot(redis) == before


def test_a_cancel_that_meets_a_broken_record_changes_nothing(store: JobStore, redis: RedisClient) -> None:
    job = submit(store)
    redis.hset(f"spillway:job:{job.id}", "fixed", "{}")
    before = snapshot(redis)
    with pytest.raises(ResponseError):
        store.cancel(job.id)
    assert snapshot(redis) == before


@pytest.mark.parametrize("fixed", ["not JSON", "{}"])
def test_a_broken_record_can_be_deleted(store: JobStore, redis: RedisClient, fixed: str) -> None:
    before = snapshot(redis).keys()
    submit(store, key_id="a")
    job = claim(store)
    redis.hset(f"spillway:job:{job.id}", "fixed", fixed)
    store.delete(job.id)
    assert {key for key in snapshot(redis).keys() - before if job.id in key and ":claim:" not in key} == set()
    assert store.backlog().running_jobs == 0


@pytest.mark.parametrize("fixed", BROKEN)
def test_a_broken_record_says_so_and_hides_no_other(store: JobStore, redis: RedisClient, fixed: str) -> None:
    first, broken, last = (submit(store) for _ in range(3))
    redis.hset(f"spillway:job:{broken.id}", "fixed", fixed)
    with pytest.raises(RecordBroken, match="delete it, and send the recording again"):
        store.get(broken.id)
    assert [job.id for job in store.page()] == [last.id, first.id]
    assert [job.id for job in store.page(state=JobState.QUEUED)] == [last.id, first.id]
    redis.hdel(f"spillway:job:{broken.id}", "state")
    assert [job.id for job in store.page(state=JobState.QUEUED)] == [last.id, first.id]


def test_what_a_broken_record_owes_is_given_up(store: JobStore, redis: RedisClient) -> None:
    job = submit(store, deliveries=({"kind": "webhook", "target": "https://example.org", "host": "example.org"},))
    store.cancel(job.id)
    redis.hset(f"spillway:job:{job.id}", "fixed", "not JSON")
    assert Outbox(redis, store).claim(Lease("me", 60, 3)) is None
    assert redis.hget(f"spillway:delivery:{job.id}:1", "outcome") == "failed"
    assert redis.zcard("spillway:outbox") == redis.zcard("spillway:undelivered") == 0


def snapshot(redis: RedisClient) -> dict[str, object]:
    return {key: redis.dump(key) for key in sorted(redis.scan_iter())}


def test_places_without_records_do_not_stop_the_queue(store: JobStore, redis: RedisClient) -> None:
    gone = [submit(store, key_id="a"), submit(store, key_id="a"), submit(store, key_id="b", priority=Priority.HIGH)]
    good, last = submit(store, key_id="a", duration_s=20), submit(store, key_id="c", duration_s=10)
    for job in gone:
        redis.delete(f"spillway:job:{job.id}")
    assert claim(store).id == good.id
    backlog = store.backlog()
    assert (backlog.queued_jobs, backlog.queued_audio_s, backlog.running_audio_s) == (1, 10, 20)
    assert claim(store).id == last.id
    assert store.claim(ALICE, lease_s=60, fits_s=ROOM_S) is None
    assert store.backlog().queued_audio_s == 0


def test_a_queue_of_nothing_but_lost_records_is_an_empty_queue(store: JobStore, redis: RedisClient) -> None:
    redis.delete(f"spillway:job:{submit(store).id}")
    assert store.claim(ALICE, lease_s=60, fits_s=ROOM_S) is None
    assert (store.backlog().queued_jobs, store.backlog().queued_audio_s) == (0, 0)


@pytest.mark.parametrize("reclaim", RECLAIMS)
def test_a_lease_without_a_record_does_not_stop_the_reclaiming(store: JobStore, redis: RedisClient, reclaim: str) -> None:
    jobs = [submit(store) for _ in range(3)]
    for _ in jobs:
        claim(store, lease_s=0)
    redis.delete(f"spillway:job:{jobs[0].id}")
    assert RECLAIMS[reclaim](store) == dict.fromkeys((job.id for job in jobs[1:]), JobState.QUEUED)
    backlog = store.backlog()
    assert (backlog.running_jobs, backlog.running_audio_s, backlog.queued_audio_s) == (0, 0, 60)
    assert RECLAIMS[reclaim](store) == {}


def is_set_aside(redis: RedisClient, job: Job) -> bool:
    record = redis.hgetall(f"spillway:job:{job.id}")
    return record["state"] == JobState.FAILED and "Send the recording again" in record["error"]


@pytest.mark.parametrize("reclaim", RECLAIMS)
@pytest.mark.parametrize("fixed", BROKEN)
def test_a_broken_record_that_runs_is_set_aside_when_it_is_lost(store: JobStore, redis: RedisClient, reclaim: str, fixed: str) -> None:
    jobs = [submit(store) for _ in range(3)]
    for _ in jobs:
        claim(store, lease_s=0)
    redis.hset(f"spillway:job:{jobs[0].id}", "fixed", fixed)
    others = dict.fromkeys((job.id for job in jobs[1:]), JobState.QUEUED)
    assert RECLAIMS[reclaim](store) == {jobs[0].id: JobState.FAILED, **others}
    assert is_set_aside(redis, jobs[0])
    assert RECLAIMS[reclaim](store) == {}


@pytest.mark.parametrize("fixed", BROKEN)
def test_a_broken_record_that_waits_is_set_aside_when_its_turn_comes(store: JobStore, redis: RedisClient, fixed: str) -> None:
    broken, good, alone = submit(store, key_id="a"), submit(store, key_id="a"), submit(store, key_id="b")
    for job in (broken, alone):
        redis.hset(f"spillway:job:{job.id}", "fixed", fixed)
    assert claim(store).id == good.id
    assert store.claim(ALICE, lease_s=60, fits_s=ROOM_S) is None
    assert is_set_aside(redis, broken)
    assert is_set_aside(redis, alone)
    assert (store.backlog().queued_jobs, store.backlog().queued_audio_s) == (0, 0)


@pytest.mark.parametrize("fixed", BROKEN)
def test_a_broken_record_can_be_deleted_with_all_that_it_owes(store: JobStore, redis: RedisClient, fixed: str) -> None:
    webhook = {"kind": "webhook", "target": "https://example.org", "host": "example.org"}
    job = submit(store, deliveries=(webhook, webhook))
    store.cancel(job.id)
    redis.hset(f"spillway:job:{job.id}", "fixed", fixed)
    store.delete(job.id)
    assert set(redis.keys()) == {"spillway:counters", "spillway:seq", "spillway:totals", "spillway:left:normal"}
