"""What the steps count as they go, and what monitoring reads of it."""

import math
import re
import time
from collections.abc import Callable

import pytest

from core.fetches import Fetches
from core.figures import Figures, Memory, WorkerFigures
from core.job import Fetched, Job, JobFailure, JobState, Priority
from core.job_store import WAIT_BOUNDS_S, JobStore, Runner
from core.leased import Lease
from core.redis_steps import RedisClient, connect
from tests.conftest import ROOT, RedisServer
from tests.core.jobs import ALICE, BOB, claim, submit

BROKE = JobFailure(code="engine_failed", message="m")
WEBHOOK = ({"kind": "webhook", "url": "https://example.org"},)


@pytest.fixture
def figures(redis: RedisClient) -> Figures:
    return Figures(redis)


def submitted_ago(store: JobStore, redis: RedisClient, seconds: float, **changes: object) -> Job:
    job = submit(store, **changes)
    redis.hset(f"spillway:job:{job.id}", "created_at", round((store.clock_s() - seconds) * 1000))
    return job


def started_ago(store: JobStore, redis: RedisClient, seconds: float) -> Job:
    submit(store)
    job = claim(store)
    redis.hset(f"spillway:job:{job.id}", "started_at", round((store.clock_s() - seconds) * 1000))
    return job


def test_what_waits_is_told_by_priority(store: JobStore, redis: RedisClient, figures: Figures) -> None:
    submitted_ago(store, redis, 90, duration_s=10)
    submitted_ago(store, redis, 30, duration_s=20)
    submit(store, priority=Priority.LOW, duration_s=5)
    queued = figures.snapshot().queued
    assert [(queued[one].jobs, queued[one].audio_s) for one in Priority] == [(0, 0), (2, 30), (1, 5)]
    assert queued[Priority.NORMAL].oldest_wait_s == pytest.approx(90, abs=5)
    assert queued[Priority.HIGH].oldest_wait_s == 0


def test_audio_that_waits_is_what_is_left_after_every_step(store: JobStore, figures: Figures) -> None:
    submit(store, priority=Priority.HIGH, duration_s=10)
    store.release(claim(store))
    assert figures.snapshot().queued[Priority.HIGH].audio_s == 10
    store.cancel(store.page().jobs[0].id)
    assert figures.snapshot().queued[Priority.HIGH].audio_s == 0


def test_a_source_waits_for_its_runner_once_it_is_fetched(store: JobStore, redis: RedisClient, figures: Figures) -> None:
    fetches = Fetches(redis, store)
    submit(store, source="https://example.org/talk.mp3", priority=Priority.HIGH, duration_s=0.0)
    snapshot = figures.snapshot()
    assert (snapshot.fetching_jobs, snapshot.queued[Priority.HIGH].jobs) == (1, 0)
    for _ in range(2):
        job = fetches.claim(Lease("me", 60, 3))
        assert job is not None
        if not job.fetch_failures:
            fetches.retry(job, BROKE, pause_s=0, max_failures=5)
    fetched = Fetched(duration_s=20, input_key="k", input_bytes=1, input_sha256="0")
    for _ in range(2):  # the second time its answer had got lost
        fetches.complete(job, fetched)
    snapshot = figures.snapshot()
    assert (snapshot.fetching_jobs, snapshot.queued[Priority.HIGH].jobs, snapshot.queued[Priority.HIGH].audio_s) == (0, 1, 20)
    assert {name: by for name, by in snapshot.totals.items() if "fetches" in name} == {"fetches:failed": 1, "fetches:stored": 1}


@pytest.mark.parametrize(("waited_s", "bound"), [(0, 1), (4, 5), (100, 120), (86_000, 86400), (100_000, math.inf)])
def test_a_wait_falls_into_the_first_bucket_that_holds_it(
    store: JobStore, redis: RedisClient, figures: Figures, waited_s: float, bound: float
) -> None:
    submitted_ago(store, redis, waited_s, priority=Priority.HIGH)
    claim(store)
    waits = figures.snapshot().waits[Priority.HIGH]
    assert [name for name, _ in waits.buckets] == [*WAIT_BOUNDS_S, math.inf]
    assert next(name for name, jobs in waits.buckets if jobs) == bound
    assert waits.buckets[-1] == (math.inf, 1)
    assert waits.sum_s == pytest.approx(waited_s, abs=1)
    assert figures.snapshot().waits[Priority.NORMAL].buckets[-1] == (math.inf, 0)


def test_only_a_jobs_first_runner_counts_as_its_wait(store: JobStore, figures: Figures) -> None:
    submit(store)
    assert claim(store, claim_id="c").attempt == claim(store, claim_id="c").attempt == 1
    store.release(store.get(store.page().jobs[0].id))
    assert claim(store, BOB).attempt == 2
    snapshot = figures.snapshot()
    assert snapshot.waits[Priority.NORMAL].buckets[-1] == (math.inf, 1)
    assert snapshot.totals["attempts"] == 2


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (lambda store, job: store.succeed(job, result_key="r"), JobState.SUCCEEDED),
        (lambda store, job: store.fail(job, BROKE), JobState.FAILED),
        (lambda store, job: store.end_cancelled(job), JobState.CANCELLED),
    ],
)
def test_an_ending_counts_its_job_its_audio_and_its_run_once(
    store: JobStore, redis: RedisClient, figures: Figures, end: Callable[[JobStore, Job], object], state: JobState
) -> None:
    job = started_ago(store, redis, 20)
    for _ in range(2):
        end(store, job)
    totals = figures.snapshot().totals
    assert (totals[state], totals[f"audio_ms:{state}"]) == (1, 30_000)
    assert totals[f"run_ms:{state}"] == pytest.approx(20_000, abs=2000)


def test_a_job_that_is_cancelled_while_it_waits_ran_for_no_time(store: JobStore, figures: Figures) -> None:
    submit(store)
    store.release(claim(store))
    store.cancel(store.page().jobs[0].id)
    totals = figures.snapshot().totals
    assert (totals["cancelled"], totals["audio_ms:cancelled"], totals.get("run_ms:cancelled")) == (1, 30_000, None)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda store, job: store.fail(job, BROKE), "engine_failed"),
        (lambda store, job: store.retry(job, BROKE, max_failures=1), "engine_failed"),
        (lambda store, _: store.reclaim_slot(Runner(ALICE.slot, "next"), max_losses=1), "worker_lost"),
    ],
)
def test_every_way_to_fail_counts_its_error_code(
    store: JobStore, figures: Figures, end: Callable[[JobStore, Job], object], code: str
) -> None:
    submit(store)
    job = claim(store)
    for _ in range(2):
        end(store, job)
    totals = figures.snapshot().totals
    assert {name: count for name, count in totals.items() if name.startswith("failed")} == {"failed": 1, f"failed:{code}": 1}


@pytest.mark.parametrize(
    ("give_back", "counter"),
    [
        (lambda store, job: store.release(job), "handbacks"),
        (lambda store, job: store.retry(job, BROKE, max_failures=2), "retries"),
        (lambda store, _: store.reclaim_slot(Runner(ALICE.slot, "next"), max_losses=3), "lost_runners"),
    ],
)
def test_a_job_that_goes_back_is_counted_once_by_its_reason(
    store: JobStore, figures: Figures, give_back: Callable[[JobStore, Job], object], counter: str
) -> None:
    submit(store)
    job = claim(store)
    for _ in range(2):
        give_back(store, job)
    totals = figures.snapshot().totals
    assert {name: totals.get(name, 0) for name in ("handbacks", "retries", "lost_runners")} == {
        **dict.fromkeys(("handbacks", "retries", "lost_runners"), 0),
        counter: 1,
    }


@pytest.mark.parametrize("give_back", [lambda store, job: store.release(job), lambda store, job: store.retry(job, BROKE, max_failures=2)])
def test_a_job_that_goes_back_to_be_cancelled_is_a_cancelled_one(
    store: JobStore, figures: Figures, give_back: Callable[[JobStore, Job], object]
) -> None:
    submit(store)
    job = claim(store)
    store.cancel(job.id)
    give_back(store, job)
    totals = figures.snapshot().totals
    assert (totals["cancelled"], totals.get("handbacks"), totals.get("retries")) == (1, None, None)


def test_stages_are_counted_once_and_only_for_the_winner(store: JobStore, figures: Figures) -> None:
    submit(store)
    loser = claim(store)
    store.reclaim_slot(Runner(ALICE.slot, "next"), max_losses=3)
    winner = claim(store, BOB)
    store.succeed(loser, result_key="stale", stages_s={"asr": 100})
    for _ in range(2):
        store.succeed(winner, result_key="r", stages_s={"asr": 2.5, "decode": 0.25})
    totals = figures.snapshot().totals
    stages = {name: count for name, count in totals.items() if name.startswith("stage")}
    assert stages == {"stages:asr": 1, "stage_ms:asr": 2500, "stages:decode": 1, "stage_ms:decode": 250}


def test_a_cancel_that_won_counts_no_stages(store: JobStore, figures: Figures) -> None:
    submit(store)
    job = claim(store)
    store.cancel(job.id)
    store.succeed(job, result_key="r", stages_s={"asr": 1})
    assert "stages:asr" not in figures.snapshot().totals


def test_a_delivery_is_as_old_as_its_jobs_end_however_often_it_was_put_off(store: JobStore, redis: RedisClient, figures: Figures) -> None:
    job = submit(store, deliveries=WEBHOOK)
    assert figures.snapshot().undelivered == 0
    store.cancel(job.id)
    redis.zincrby("spillway:undelivered", -50_000, f"{job.id}:1")
    redis.zadd("spillway:outbox", {f"{job.id}:1": (time.time() + 3600) * 1000})
    snapshot = figures.snapshot()
    assert (snapshot.undelivered, snapshot.oldest_undelivered_s) == (1, pytest.approx(50, abs=5))
    store.delete(job.id)
    snapshot = figures.snapshot()
    assert (snapshot.undelivered, snapshot.oldest_undelivered_s) == (0, 0)


def test_only_the_prelude_takes_deliveries_out_of_the_outbox() -> None:
    """Its `settle` takes them out of `undelivered` too, or the oldest would grow old for ever."""
    sources = {path.stem: path.read_text() for path in (ROOT / "core" / "lua").glob("*.lua")}
    assert {name for name, text in sources.items() if re.search(r"'ZREM', (OUTBOX|ns \.\. ':outbox')", text)} == {"prelude"}


def test_a_leader_is_told_of_while_it_leads(store: JobStore, redis: RedisClient, figures: Figures) -> None:
    assert not figures.snapshot().has_leader
    store.lead("me", ttl_s=60)
    assert figures.snapshot().has_leader
    redis.delete("spillway:leader")
    assert not figures.snapshot().has_leader


def test_a_workers_counts_are_added_once_however_often_they_are_told(figures: Figures) -> None:
    for count in (3, 3, 5):
        figures.report(ALICE, WorkerFigures({"batches:asr": count}, None))
    figures.report(BOB, WorkerFigures({"batches:asr": 10}, None))
    assert figures.snapshot().totals == {"batches:asr": 15}


def test_a_new_process_in_a_slot_begins_at_nothing_and_totals_do_not(figures: Figures) -> None:
    figures.report(ALICE, WorkerFigures({"batches:asr": 5}, None))
    figures.report(Runner(ALICE.slot, "boot-2"), WorkerFigures({"batches:asr": 2}, None))
    assert figures.snapshot().totals == {"batches:asr": 7}


def test_a_workers_memory_is_told_by_slot_and_not_without_a_gpu(figures: Figures) -> None:
    figures.report(ALICE, WorkerFigures({}, Memory(3, 8)))
    figures.report(BOB, WorkerFigures({}, None))
    assert figures.memory([ALICE.slot, BOB.slot, "never heard of"]) == {ALICE.slot: Memory(3, 8)}
    figures.report(ALICE, WorkerFigures({}, None))
    assert figures.memory([ALICE.slot]) == {}


def test_a_workers_report_is_forgotten_in_the_end(redis: RedisClient, figures: Figures) -> None:
    figures.report(ALICE, WorkerFigures({"batches:asr": 1}, None))
    assert 6 * 86400 < redis.ttl(f"spillway:figures:{ALICE.slot}") <= 7 * 86400


def test_totals_outlive_the_jobs_and_a_restart_of_redis(redis_server: RedisServer) -> None:
    with connect(redis_server.url) as redis:
        store, figures = JobStore(redis), Figures(redis)
        submit(store)
        job = claim(store)
        store.succeed(job, result_key="r", stages_s={"asr": 1})
        store.delete(job.id)
        before = figures.snapshot()
        redis_server.stop()
        redis_server.start()
        after = figures.snapshot()
    assert before.totals["succeeded"] == 1
    assert (after.totals, after.waits) == (before.totals, before.waits)
