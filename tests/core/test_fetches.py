"""The contract of every step that a source goes through before its job is pending, on a real server."""

import time

import pytest
from redis.exceptions import ResponseError

from core.errors import IdempotencyConflict, JobNotFound, QueueFull, StoreUnavailable
from core.fetches import Fetches
from core.job import Fetched, Job, JobFailure, JobState, Priority, Stage
from core.job_store import JobStore
from core.leased import Lease
from core.redis_steps import RedisClient, connect
from tests.core.jobs import ALICE, ROOM_S, claim, new_job, submit

FAILURE = JobFailure(code="source_unreachable", message="m")
SOURCE = "https://example.org/talk.mp3"
ONE, OTHER = Lease("one", 60, 3), Lease("other", 60, 3)
EXPIRED = Lease("one", 0, 3)


@pytest.fixture
def fetches(redis: RedisClient, store: JobStore) -> Fetches:
    return Fetches(redis, store)


def submit_source(store: JobStore, **changes: object) -> Job:
    return submit(store, source=SOURCE, duration_s=0.0, input_key="", input_bytes=0, input_sha256="", **changes)


def taken(fetches: Fetches, lease: Lease = ONE) -> Job:
    job = fetches.claim(lease)
    assert job is not None
    return job


def fetched(job: Job, duration_s: float = 20.0) -> Fetched:
    return Fetched(duration_s=duration_s, input_key=f"jobs/{job.id}/fetches/1/input", input_bytes=7, input_sha256="f" * 64)


def test_a_job_with_a_source_is_queued_but_not_pending(store: JobStore) -> None:
    job = submit_source(store)
    assert (job.state, job.stage, job.source, job.input_key) == (JobState.QUEUED, Stage.FETCHING, SOURCE, "")
    assert store.claim(ALICE, lease_s=60, fits_s=ROOM_S) is None
    assert store.position(job) is None
    backlog = store.backlog()
    assert (backlog.queued_jobs, backlog.fetching_jobs, backlog.queued_audio_s) == (0, 1, 0)


def test_a_job_with_an_upload_is_nobodys_to_fetch(store: JobStore, fetches: Fetches) -> None:
    submit(store)
    assert fetches.claim(ONE) is None


def test_sources_that_are_fetched_count_for_a_full_queue(store: JobStore) -> None:
    submit_source(store)
    with pytest.raises(QueueFull):
        store.submit(new_job(), max_queued=1)


def test_an_idempotency_key_is_held_to_source_and_options(store: JobStore) -> None:
    first = store.submit(new_job(source=SOURCE), max_queued=9, idempotency_key="k")[0]
    assert store.submit(new_job(source=SOURCE), max_queued=9, idempotency_key="k") == (first, False)
    for other in (new_job(source=SOURCE + "?v=2"), new_job(source=SOURCE, language="de")):
        with pytest.raises(IdempotencyConflict):
            store.submit(other, max_queued=9, idempotency_key="k")


def test_a_fetched_job_is_pending_at_the_place_of_its_submit(store: JobStore, fetches: Fetches) -> None:
    first, later = submit_source(store, clip_start=5), submit(store)
    job = taken(fetches)
    assert fetches.complete(job, fetched(job)) == JobState.QUEUED
    seen = store.get(first.id)
    assert (seen.state, seen.stage, seen.duration_s, seen.input_bytes) == (JobState.QUEUED, None, 20.0, 7)
    assert (seen.input_key, seen.input_sha256) == (fetched(job).input_key, "f" * 64)
    backlog = store.backlog()
    assert (backlog.queued_jobs, backlog.fetching_jobs, backlog.queued_audio_s) == (2, 0, 15 + 30)
    assert [claim(store).id for _ in range(2)] == [first.id, later.id]


def test_a_fetched_job_runs_and_ends_like_any_other(store: JobStore, fetches: Fetches) -> None:
    submit_source(store, priority=Priority.HIGH)
    fetches.complete(job := taken(fetches), fetched(job))
    running = claim(store)
    assert store.release(running) == JobState.QUEUED
    assert store.get(job.id).duration_s == 20.0
    assert store.succeed(claim(store), result_key="r") == JobState.SUCCEEDED
    backlog = store.backlog()
    assert (backlog.queued_jobs, backlog.fetching_jobs, backlog.running_audio_s) == (0, 0, 0)


def test_completing_twice_is_completing_once(store: JobStore, fetches: Fetches) -> None:
    submit_source(store)
    job = taken(fetches)
    assert fetches.complete(job, fetched(job)) == fetches.complete(job, fetched(job, 99)) == JobState.QUEUED
    assert store.get(job.id).duration_s == 20.0
    assert store.backlog().queued_audio_s == 20


def test_sources_are_taken_in_their_turn_each_by_one(store: JobStore, fetches: Fetches) -> None:
    ids = []
    for _ in range(3):
        ids.append(submit_source(store).id)
        time.sleep(0.002)  # the turn goes by milliseconds of Redis' clock
    assert [taken(fetches).id, taken(fetches, OTHER).id, taken(fetches).id] == ids
    assert fetches.claim(OTHER) is None


def test_the_key_with_the_fewest_under_way_comes_first_then_who_has_waited_longest(store: JobStore, fetches: Fetches) -> None:
    jobs = []
    for key_id in ("alice", "alice", "bob", "carol"):
        jobs.append(submit_source(store, key_id=key_id).id)
        time.sleep(0.002)  # the turn goes by milliseconds of Redis' clock
    under_way = {"alice": 2, "bob": 1}
    claimed = [fetches.claim(ONE, under_way=under_way) for _ in range(4)]
    assert [job and job.id for job in claimed] == [jobs[3], jobs[2], jobs[0], jobs[1]]


def test_a_key_that_has_its_share_waits_however_long_it_has_waited(store: JobStore, fetches: Fetches) -> None:
    for _ in range(150):
        store.submit(new_job(source=SOURCE, key_id="alice"), max_queued=1000)
    time.sleep(0.002)
    of_bob, _ = store.submit(new_job(source=SOURCE, key_id="bob"), max_queued=1000)
    claimed = fetches.claim(ONE, under_way={"alice": 2}, most_of_key=2)
    assert claimed is not None
    assert claimed.id == of_bob.id
    assert fetches.claim(ONE, under_way={"alice": 2, "bob": 1}, most_of_key=2) is None
    assert fetches.claim(ONE, under_way={"alice": 1, "bob": 1}, most_of_key=2) is not None


def test_of_very_many_sources_those_of_one_key_do_not_hide_the_others(store: JobStore, fetches: Fetches, redis: RedisClient) -> None:
    of_bob = submit_source(store, key_id="bob")
    of_alice = submit_source(store, key_id="alice")
    many = {f"{n:032}": 1 for n in range(1999)}
    for place in many:
        redis.copy(f"spillway:job:{of_alice.id}", f"spillway:job:{place}")
    redis.zadd("spillway:fetching", many | {of_bob.id: 5})
    claimed = (fetches.claim(ONE, under_way={"alice": 2}, most_of_key=2) for _ in range(100))
    assert next(job for job in claimed if job is not None).id == of_bob.id  # half of all looks miss it: 100 of them once in 10^30 runs


def test_a_lost_fetch_never_overwrites_the_winner(store: JobStore, fetches: Fetches) -> None:
    submit_source(store)
    loser = taken(fetches, EXPIRED)
    winner = taken(fetches, OTHER)
    assert winner.fetch == loser.fetch + 1
    assert fetches.beat([loser, winner], lease_s=60, renew=True) == (False, True)
    assert fetches.complete(loser, fetched(loser, 1)) is None
    assert fetches.retry(loser, FAILURE, pause_s=0, max_failures=1) is None
    assert fetches.release(loser) is None
    assert fetches.complete(winner, fetched(winner, 2)) == JobState.QUEUED
    assert store.get(winner.id).duration_s == 2


def test_a_renewed_fetch_is_not_taken_by_another(store: JobStore, fetches: Fetches) -> None:
    submit_source(store)
    job = taken(fetches, EXPIRED)
    assert fetches.beat([job], lease_s=60, renew=True) == (True,)
    assert fetches.claim(OTHER) is None


def test_a_beat_without_renewal_writes_nothing(store: JobStore, fetches: Fetches, redis: RedisClient) -> None:
    submit_source(store)
    job = taken(fetches)
    before = redis.info("persistence")["aof_current_size"]
    assert fetches.beat([job], lease_s=60, renew=False) == (True,)
    assert redis.info("persistence")["aof_current_size"] == before


def test_a_failed_fetch_is_tried_again_after_its_pause_then_fails(store: JobStore, fetches: Fetches) -> None:
    submit_source(store, deliveries=({"kind": "webhook"},))
    first = taken(fetches)
    assert fetches.retry(first, FAILURE, pause_s=60, max_failures=2) == JobState.QUEUED
    assert fetches.retry(first, FAILURE, pause_s=60, max_failures=2) == JobState.QUEUED, "a lost reply counts no second failure"
    assert fetches.claim(ONE) is None
    assert store.get(first.id).fetch_failures == 1


def test_the_last_failure_ends_the_job_and_tells_the_outside(store: JobStore, fetches: Fetches, redis: RedisClient) -> None:
    submit_source(store, deliveries=({"kind": "webhook"},))
    assert fetches.retry(taken(fetches), FAILURE, pause_s=0, max_failures=2) == JobState.QUEUED
    job = taken(fetches)
    assert fetches.retry(job, FAILURE, pause_s=0, max_failures=2) == JobState.FAILED
    failed = store.get(job.id)
    assert (failed.state, failed.error, failed.stage) == (JobState.FAILED, FAILURE, None)
    assert redis.zrange("spillway:outbox", 0, -1) == [f"{job.id}:1"]
    assert store.backlog().fetching_jobs == 0
    assert fetches.claim(ONE) is None


def test_a_fetch_that_cannot_succeed_fails_at_once(store: JobStore, fetches: Fetches) -> None:
    submit_source(store)
    job = taken(fetches)
    assert fetches.fail(job, FAILURE) == JobState.FAILED
    assert store.get(job.id).error == FAILURE


def test_a_hand_back_counts_no_failure_and_no_loss(store: JobStore, fetches: Fetches) -> None:
    submit_source(store)
    released = taken(fetches)
    assert fetches.release(released) == JobState.QUEUED
    assert fetches.beat([released], lease_s=60, renew=True) == (False,)
    assert fetches.complete(released, fetched(released)) is None
    for _ in range(5):
        job = taken(fetches, OTHER)
        fetches.release(job)
    assert job.fetch_failures == 0
    assert fetches.release(taken(fetches), pause_s=60) == JobState.QUEUED
    assert fetches.claim(ONE) is None


def test_a_source_that_keeps_killing_its_fetcher_is_set_aside(store: JobStore, fetches: Fetches) -> None:
    poison = submit_source(store)
    for life in range(3):
        assert taken(fetches, Lease(f"life {life}", 0, 3)).id == poison.id
    good = submit_source(store)
    assert taken(fetches).id == good.id
    failed = store.get(poison.id)
    assert failed.error is not None
    assert (failed.state, failed.error.code) == (JobState.FAILED, "worker_lost")


def test_a_fetcher_that_takes_its_own_fetch_again_has_lost_nobody(store: JobStore, fetches: Fetches) -> None:
    submit_source(store)
    for _ in range(5):
        taken(fetches, EXPIRED)
    assert taken(fetches).fetch == 6


@pytest.mark.parametrize("is_taken", [False, True])
def test_a_cancel_ends_a_fetch_at_once(store: JobStore, fetches: Fetches, redis: RedisClient, is_taken: bool) -> None:
    job = submit_source(store, deliveries=({"kind": "webhook"},))
    held = taken(fetches) if is_taken else job
    assert store.cancel(job.id).state == JobState.CANCELLED
    assert fetches.beat([held], lease_s=60, renew=True) == (False,)
    assert fetches.complete(held, fetched(job)) is None
    assert fetches.claim(ONE) is None
    assert redis.zrange("spillway:outbox", 0, -1) == [f"{job.id}:1"]
    assert (store.backlog().queued_jobs, store.backlog().fetching_jobs) == (0, 0)


def test_a_deleted_job_is_nobodys_to_fetch(store: JobStore, fetches: Fetches, redis: RedisClient) -> None:
    submit_source(store)
    job = taken(fetches)
    store.delete(job.id)
    assert store.backlog().fetching_jobs == 0
    assert fetches.beat([job], lease_s=60, renew=True) == (False,)
    assert fetches.complete(job, fetched(job)) is None
    assert fetches.fail(job, FAILURE) is None
    assert fetches.claim(ONE) is None
    with pytest.raises(JobNotFound):
        store.get(job.id)
    assert not redis.exists(f"spillway:job:{job.id}")


def test_those_that_wait_are_told_from_those_that_ended(store: JobStore, fetches: Fetches) -> None:
    waits, ends = submit_source(store), submit_source(store)
    store.cancel(ends.id)
    assert fetches.waiting([waits.id, ends.id, "unknown"]) == {waits.id}
    assert fetches.waiting([]) == set()


def test_a_place_without_a_record_does_not_stop_the_fetching(store: JobStore, fetches: Fetches, redis: RedisClient) -> None:
    gone, good = submit_source(store), submit_source(store)
    redis.delete(f"spillway:job:{gone.id}")
    assert taken(fetches).id == good.id
    assert store.backlog().fetching_jobs == 1


@pytest.mark.parametrize("fixed", ["not JSON", "{}"])
@pytest.mark.parametrize("max_losses", [1, 3])
def test_a_step_that_meets_a_broken_record_changes_nothing(
    store: JobStore, fetches: Fetches, redis: RedisClient, fixed: str, max_losses: int
) -> None:
    submit_source(store)
    job = taken(fetches, EXPIRED)
    redis.hset(f"spillway:job:{job.id}", "fixed", fixed)
    before = content(redis, job)
    with pytest.raises(ResponseError):
        fetches.retry(job, FAILURE, pause_s=0, max_failures=max_losses)
    assert content(redis, job) == before


@pytest.mark.parametrize("fixed", ["not JSON", "{}"])
def test_a_source_whose_record_is_broken_is_set_aside_when_its_turn_comes(
    store: JobStore, fetches: Fetches, redis: RedisClient, fixed: str
) -> None:
    broken = submit_source(store)
    time.sleep(0.002)  # the turn goes by milliseconds of Redis' clock
    good = submit_source(store)
    redis.hset(f"spillway:job:{broken.id}", "fixed", fixed)
    assert taken(fetches).id == good.id
    assert redis.hget(f"spillway:job:{broken.id}", "state") == JobState.FAILED
    assert fetches.waiting([broken.id]) == set()


def content(redis: RedisClient, job: Job) -> object:
    return redis.hgetall(f"spillway:job:{job.id}"), redis.zrange("spillway:fetching", 0, -1, withscores=True)


def test_watchers_hear_that_the_source_is_there(store: JobStore, fetches: Fetches) -> None:
    before = submit_source(store).version
    job = taken(fetches)
    fetches.complete(job, fetched(job))
    assert store.get(job.id).version > before


def test_a_server_that_is_away_is_said_to_be_away() -> None:
    away = connect("redis://127.0.0.1:1/0", retries=0)
    fetches = Fetches(away, JobStore(away))
    with pytest.raises(StoreUnavailable):
        fetches.claim(ONE)
    with pytest.raises(StoreUnavailable):
        fetches.waiting(["a"])
