"""What ended jobs keep, and for how long, on a real server."""

import time
from collections.abc import Callable

import pytest

from core.errors import JobNotFound
from core.figures import Figures
from core.file_store import result_key
from core.inventory import Expected, Inventory, Told
from core.job import Job, JobFailure, Stage
from core.job_store import JobStore
from core.leased import Lease
from core.outbox import Answer, DeliveryState, Outbox
from core.redis_steps import RedisClient
from core.retention import HELD_BACK_S, Expired, Kept, Retention
from core.worker_reports import WorkerReport
from tests.core.jobs import ALICE, claim, submit

LASTING = {"counters", "seq", "speed", "totals", "virtual_time", "waits", "left:normal"}
HOOK = {"kind": "webhook", "target": "https://example.org/hook", "host": "example.org"}
LATER_S = HELD_BACK_S + 1  # as if that much time had passed: the next look at a job that was held back


@pytest.fixture
def retention(redis: RedisClient) -> Retention:
    return Retention(redis)


@pytest.fixture
def inventory(redis: RedisClient) -> Inventory:
    return Inventory(redis)


def succeeded(store: JobStore, **changes: object) -> Job:
    submit(store, **changes)
    job = claim(store)
    store.keep_product(job, Stage.ASR, f"jobs/{job.id}/products/1-asr.json", sha256="abc")
    store.succeed(job, result_key=result_key(job.id, 1))
    return store.get(job.id)


def due(retention: Retention, kept: Kept, lifetime_s: float = 0.0, limit: int = 100) -> list[str]:
    return [expired.job_id for expired in retention.expired(kept, lifetime_s=lifetime_s, limit=limit)]


ENDINGS: dict[str, Callable[[JobStore, Job], object]] = {
    "succeeded": lambda store, job: store.succeed(job, result_key="r"),
    "failed": lambda store, job: store.fail(job, JobFailure(code="c", message="m")),
    "cancelled": lambda store, job: (store.cancel(job.id), store.end_cancelled(job)),
    "lost": lambda store, _: store.reclaim_expired(max_losses=1),
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kept", Kept)
def test_what_a_job_keeps_has_its_lifetime_from_the_jobs_end_however_it_ends(
    store: JobStore, retention: Retention, ending: str, kept: Kept
) -> None:
    submit(store)
    job = claim(store, lease_s=0)
    assert due(retention, kept) == []
    ENDINGS[ending](store, job)
    assert due(retention, kept) == [job.id]
    assert due(retention, kept, lifetime_s=60) == []


@pytest.mark.parametrize("kept", Kept)
def test_a_job_that_has_not_ended_keeps_everything(store: JobStore, retention: Retention, kept: Kept) -> None:
    back = claim(store) if submit(store) else None
    assert back
    store.release(back)
    store.retry(claim(store), JobFailure(code="c", message="m"), max_failures=2)
    submit(store, source="https://example.org/a.wav")
    assert due(retention, kept) == []


def test_those_that_ended_first_come_first_and_no_more_than_asked_for(store: JobStore, retention: Retention) -> None:
    jobs = []
    for _ in range(3):
        jobs.append(succeeded(store).id)
        time.sleep(0.002)  # the order goes by milliseconds of Redis' clock
    assert due(retention, Kept.INPUTS, limit=2) == jobs[:2]
    retention.let_go(Kept.INPUTS, jobs[:2])
    assert due(retention, Kept.INPUTS, limit=2) == jobs[2:]


def test_it_says_what_the_files_are_found_by(store: JobStore, retention: Retention) -> None:
    job = succeeded(store)
    assert retention.expired(Kept.PRODUCTS, lifetime_s=0, limit=1) == (Expired(job.id, job.result_key, None),)
    submit(store, source="gs://bucket/talk.wav")
    (fetched,) = [each for each in store.page() if each.source]
    store.cancel(fetched.id)
    assert Expired(fetched.id, None, "gs://bucket/talk.wav") in retention.expired(Kept.INPUTS, lifetime_s=0, limit=9)


def test_products_that_are_gone_are_named_no_more_and_the_job_stays(store: JobStore, retention: Retention) -> None:
    job = succeeded(store)
    assert (job.products, job.product_sha256) == ({"asr": f"jobs/{job.id}/products/1-asr.json"}, {"asr": "abc"})
    retention.let_go(Kept.PRODUCTS, [job.id])
    after = store.get(job.id)
    assert (after.products, after.product_sha256, after.result_key) == ({}, {}, job.result_key)
    assert (due(retention, Kept.PRODUCTS), due(retention, Kept.INPUTS)) == ([], [job.id])


def test_with_its_results_a_job_leaves_nothing_in_redis(store: JobStore, redis: RedisClient, retention: Retention) -> None:
    job = succeeded(store, key_id="key", deliveries=(HOOK,))
    outbox = Outbox(redis, store)
    delivery = outbox.claim(Lease("me", 60, 3))
    assert delivery
    outbox.end(delivery, DeliveryState.DELIVERED, Answer(status=200))
    assert due(retention, Kept.RESULTS) == [job.id]
    retention.let_go(Kept.RESULTS, [job.id])
    with pytest.raises(JobNotFound):
        store.get(job.id)
    lasting = [key for key in redis.scan_iter() if redis.ttl(key) == -1]
    assert [key for key in lasting if job.id in key] == []
    assert {key.removeprefix("spillway:") for key in lasting} <= LASTING


def test_results_wait_until_what_the_job_owes_is_settled_and_hold_up_nobody(
    store: JobStore, redis: RedisClient, retention: Retention
) -> None:
    outbox = Outbox(redis, store)
    owing = succeeded(store, deliveries=(HOOK, HOOK))
    time.sleep(0.002)
    free = succeeded(store)
    assert due(retention, Kept.RESULTS, limit=1) == []
    assert due(retention, Kept.RESULTS, limit=1) == [free.id]
    for look, state in enumerate((DeliveryState.DELIVERED, DeliveryState.STOPPED), start=1):
        assert owing.id not in due(retention, Kept.RESULTS, lifetime_s=-look * LATER_S)
        delivery = outbox.claim(Lease("me", 60, 3))
        assert delivery
        outbox.end(delivery, state, Answer())
    assert owing.id in due(retention, Kept.RESULTS, lifetime_s=-3 * LATER_S)
    assert owing.id in due(retention, Kept.INPUTS)


def test_a_job_may_be_let_go_twice_or_after_its_record_is_gone(store: JobStore, redis: RedisClient, retention: Retention) -> None:
    job = succeeded(store)
    redis.delete(f"spillway:job:{job.id}")
    assert due(retention, Kept.RESULTS) == [job.id]
    for _ in range(2):
        retention.let_go(Kept.RESULTS, [job.id])
    assert due(retention, Kept.RESULTS) == due(retention, Kept.INPUTS) == []


@pytest.mark.parametrize("fixed", ["not JSON", "[]", "null", '{"source": 7}'])
def test_a_broken_record_expires_like_any_other(store: JobStore, redis: RedisClient, retention: Retention, fixed: str) -> None:
    job = succeeded(store)
    redis.hset(f"spillway:job:{job.id}", "fixed", fixed)
    assert retention.expired(Kept.RESULTS, lifetime_s=0, limit=1) == (Expired(job.id, job.result_key, None),)
    retention.let_go(Kept.RESULTS, [job.id])
    assert not redis.exists(f"spillway:job:{job.id}")


def test_what_expired_is_counted(store: JobStore, redis: RedisClient, retention: Retention) -> None:
    job = succeeded(store)
    retention.let_go(Kept.INPUTS, [job.id])
    assert Figures(redis).snapshot().totals["expired:inputs"] == 1


# What there should be


def test_the_inventory_expects_the_recordings_that_wait_and_the_results_that_are_kept(store: JobStore, inventory: Inventory) -> None:
    ended = succeeded(store)
    submit(store, source="https://example.org/a.wav")
    waiting = submit(store)
    expected = {Expected(waiting.id, waiting.input_key), Expected(ended.id, ended.result_key or "")}
    assert set(inventory.expected()) == expected
    assert all(map(inventory.still_expects, expected))
    claim(store)
    store.delete(ended.id)
    assert not any(map(inventory.still_expects, expected))


def test_the_inventory_passes_over_broken_records(store: JobStore, redis: RedisClient, inventory: Inventory) -> None:
    for source in (None, "https://example.org/a.wav"):
        redis.hset(f"spillway:job:{submit(store, source=source).id}", "fixed", "not JSON")
    assert (list(inventory.expected()), inventory.sources()) == ([], set())


def test_the_inventory_tells_jobs_with_a_record_from_those_without(store: JobStore, inventory: Inventory) -> None:
    job = submit(store)
    assert inventory.recorded([job.id, "never-was"]) == {job.id}


def test_what_a_look_found_is_there_for_monitoring(redis: RedisClient, inventory: Inventory) -> None:
    assert inventory.told() is None
    inventory.tell(Told(12.5, 3, 4096, 1))
    assert inventory.told() == Told(12.5, 3, 4096, 1)
    assert (Figures(redis).snapshot().orphan_files, Figures(redis).snapshot().missing_files) == (3, 1)


def test_only_places_of_workers_that_are_gone_are_forgotten(store: JobStore, redis: RedisClient, inventory: Inventory) -> None:
    for slot in ("alive", "gone", ALICE.slot):
        store.report_worker(WorkerReport(slot, True, "", "cpu", "tiny"), ttl_s=60)
    submit(store)
    claim(store, ALICE)
    redis.delete("spillway:worker:gone", f"spillway:worker:{ALICE.slot}")
    assert inventory.prune_workers() == 1
    assert redis.smembers("spillway:workers") == {"alive", ALICE.slot}
