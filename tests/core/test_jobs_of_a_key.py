"""How many jobs an API key may have: counted in the step that takes one, and never away from what the records say."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import TooManyJobs
from core.fetches import Fetches
from core.job import Fetched, Job, JobFailure
from core.job_store import JobStore
from core.leased import Lease
from core.redis_steps import RedisClient
from tests.core.jobs import ALICE, ROOM_S, claim, new_job, submit

KEYS = ("a", "b")
BROKEN = JobFailure(code="c", message="m")
SOURCE = "https://example.org/talk.mp3"


def take(store: JobStore, *, most: int, key_id: str = "a", idempotency_key: str = "") -> Job:
    return store.submit(new_job(key_id=key_id), max_queued=1000, max_of_key=most, idempotency_key=idempotency_key)[0]


def has_room(store: JobStore, *, most: int) -> bool:
    try:
        store.check_room_for("a", max_of_key=most)
    except TooManyJobs:
        return False
    return True


def test_a_key_that_has_its_jobs_gets_no_more_until_one_ends(store: JobStore) -> None:
    first, second = take(store, most=2), take(store, most=2)
    for _ in range(2):
        with pytest.raises(TooManyJobs, match=r"2 jobs of this API key wait or run.*when some have ended") as refused:
            take(store, most=2)
        assert refused.value.retry_after_s == 30
    assert sorted(job.id for job in store.page()) == sorted((first.id, second.id))
    take(store, most=2, key_id="b")
    store.cancel(first.id)
    take(store, most=2)


def test_a_running_job_counts_until_it_ends(store: JobStore) -> None:
    take(store, most=1)
    job = claim(store)
    with pytest.raises(TooManyJobs):
        take(store, most=1)
    store.succeed(job, result_key="r")
    take(store, most=1)


EARLY_ENDS: dict[str, Callable[[JobStore, Fetches, Job], object]] = {
    "cancelled": lambda store, _, job: store.cancel(job.id),
    "deleted": lambda store, _, job: store.delete(job.id),
    "not to be had": lambda _, fetches, job: fetches.fail(job, BROKEN),
    "lost with its dispatcher": lambda _, fetches, __: fetches.claim(Lease("other", 60, 1)),
}


@pytest.mark.parametrize("end", EARLY_ENDS)
def test_a_source_counts_from_its_submit_until_it_ends(store: JobStore, redis: RedisClient, end: str) -> None:
    fetches = Fetches(redis, store)
    store.submit(new_job(source=SOURCE, key_id="a"), max_queued=1000, max_of_key=1)
    job = fetches.claim(Lease("one", 0, 1))
    assert job is not None
    with pytest.raises(TooManyJobs):
        take(store, most=1)
    EARLY_ENDS[end](store, fetches, job)
    take(store, most=1)


def test_a_source_that_was_fetched_still_counts(store: JobStore, redis: RedisClient) -> None:
    fetches = Fetches(redis, store)
    store.submit(new_job(source=SOURCE, key_id="a"), max_queued=1000, max_of_key=1)
    job = fetches.claim(Lease("one", 60, 1))
    assert job is not None
    fetches.complete(job, Fetched(duration_s=1, input_key="k", input_bytes=1, input_sha256="0"))
    with pytest.raises(TooManyJobs):
        take(store, most=1)


def test_a_repeat_finds_its_job_though_there_is_no_room(store: JobStore) -> None:
    first = take(store, most=1, idempotency_key="k")
    assert take(store, most=1, idempotency_key="k").id == first.id


def test_however_many_are_sent_together_the_limit_gets_through(store: JobStore) -> None:
    def is_taken(_: int) -> bool:
        try:
            take(store, most=7)
        except TooManyJobs:
            return False
        return True

    with ThreadPoolExecutor(16) as threads:
        assert sum(threads.map(is_taken, range(60))) == 7
    assert store.backlog().queued_jobs == 7


def test_0_is_no_limit(store: JobStore) -> None:
    for _ in range(5):
        take(store, most=0)
    store.check_room_for("a", max_of_key=0)


def test_room_can_be_asked_for_beforehand(store: JobStore) -> None:
    store.check_room_for("a", max_of_key=1)
    take(store, most=1)
    store.check_room_for("a", max_of_key=2)
    with pytest.raises(TooManyJobs):
        store.check_room_for("a", max_of_key=1)


def test_a_record_that_is_gone_keeps_no_key_out(store: JobStore, redis: RedisClient) -> None:
    waiting, running = take(store, most=2), take(store, most=2)
    claim(store)
    for job in (waiting, running):
        redis.delete(f"spillway:job:{job.id}")
    store.check_room_for("a", max_of_key=2)
    take(store, most=2)


def test_many_records_that_are_gone_keep_no_key_out_for_long(store: JobStore, redis: RedisClient) -> None:
    redis.sadd("spillway:unfinished:a", *(f"gone{number}" for number in range(250)))
    room = [has_room(store, most=20) for _ in range(4)]
    assert (room[0], room[3]) == (False, True)
    assert redis.scard("spillway:unfinished:a") <= 20


def test_a_job_whose_end_was_not_noted_keeps_no_key_out(store: JobStore, redis: RedisClient) -> None:
    job = take(store, most=1)
    store.cancel(job.id)
    redis.sadd("spillway:unfinished:a", job.id)  # as a step of an older version would leave it
    take(store, most=1)


def any_job(store: JobStore, number: int) -> Job | None:
    jobs = store.page().jobs
    return jobs[number % len(jobs)] if jobs else None


def on_any(act: Callable[[JobStore, Job], object]) -> Callable[[JobStore, int], None]:
    def step(store: JobStore, number: int) -> None:
        if (job := any_job(store, number)) is not None:
            act(store, job)

    return step


STEPS: dict[str, Callable[[JobStore, int], object]] = {
    "submit": lambda store, number: submit(store, key_id=KEYS[number % 2]),
    "submit once more": on_any(lambda store, job: submit(store, id=job.id, key_id=job.key_id)),
    "claim": lambda store, number: store.claim(ALICE, lease_s=60 * (number % 2), fits_s=ROOM_S),
    "cancel": on_any(lambda store, job: store.cancel(job.id)),
    "delete": on_any(lambda store, job: store.delete(job.id)),
    "succeed": on_any(lambda store, job: store.succeed(job, result_key="r")),
    "fail": on_any(lambda store, job: store.fail(job, BROKEN)),
    "let go": on_any(lambda store, job: store.end_cancelled(job)),
    "release": on_any(lambda store, job: store.release(job)),
    "retry": on_any(lambda store, job: store.retry(job, BROKEN, max_failures=2)),
    "lose": lambda store, _: store.reclaim_expired(max_losses=2),
    "restart": lambda store, number: store.reclaim_slot(type(ALICE)(ALICE.slot, str(number)), max_losses=2),
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 9)), max_size=40))
def test_whatever_happens_the_unfinished_jobs_of_a_key_are_those_of_the_records(
    store: JobStore, redis: RedisClient, steps: list[tuple[str, int]]
) -> None:
    redis.flushall()
    for name, number in steps:
        STEPS[name](store, number)
        for key_id in KEYS:
            unended = {job.id for job in store.page(limit=100, key_id=key_id) if not job.state.is_terminal}
            assert redis.smembers(f"spillway:unfinished:{key_id}") == unended
