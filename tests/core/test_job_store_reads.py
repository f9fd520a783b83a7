"""What can be read of the store: backlog, pages, positions, watching, workers."""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from core import job_store
from core.errors import JobNotFound
from core.job import JobState, Priority
from core.job_store import JobStore
from core.redis_steps import RedisClient
from core.worker_reports import Download, WorkerReport, WorkerState
from tests.conftest import wait_for
from tests.core.jobs import claim, submit


def test_the_backlog_counts_clips_not_files(store: JobStore) -> None:
    submit(store, duration_s=100, clip_start=10, clip_end=30)
    submit(store, duration_s=50)
    claim(store)
    backlog = store.backlog()
    assert (backlog.queued_jobs, backlog.queued_audio_s, backlog.running_jobs, backlog.running_audio_s) == (1, 50, 1, 20)


def test_pages_are_newest_first_and_follow_one_another(store: JobStore) -> None:
    ids = [submit(store).id for _ in range(5)]
    first = store.page(limit=2)
    rest = store.page(limit=10, before=first.next)
    assert [job.id for job in (*first, *rest)] == [job.id for job in store.page()]
    assert sorted(job.id for job in (*first, *rest)) == sorted(ids)
    assert rest.next is None
    store.cancel(ids[0])
    assert [job.id for job in store.page(state=JobState.CANCELLED)] == [ids[0]]


def test_a_page_of_a_rare_state_reads_so_many_records_and_tells_where_to_go_on(store: JobStore) -> None:
    ids = [submit(store).id for _ in range(10)]
    oldest = store.page().jobs[-1].id
    store.cancel(oldest)
    found: list[str] = []
    lengths: list[int] = []
    cursor: str | None = None
    while not lengths or cursor:
        page = store.page(state=JobState.CANCELLED, before=cursor, most_read=4)
        found += [job.id for job in page]
        lengths.append(len(page.jobs))
        cursor = page.next
    assert (found, lengths) == ([oldest], [0, 0, 1])
    assert oldest in ids


@pytest.mark.parametrize("state", [None, JobState.QUEUED])
def test_a_full_page_has_a_next_only_if_there_are_more(store: JobStore, state: JobState | None) -> None:
    for _ in range(3):
        submit(store)
    assert store.page(limit=3, state=state).next is None
    page = store.page(limit=2, state=state)
    assert page.next == page.jobs[-1].id
    assert len(store.page(limit=2, state=state, before=page.next).jobs) == 1


def test_a_page_behind_a_deleted_job_is_refused_not_begun_again(store: JobStore, redis: RedisClient) -> None:
    job, _ = submit(store), submit(store)
    redis.zrem("spillway:jobs", job.id)  # what a page sees that a delete overtakes
    with pytest.raises(JobNotFound):
        store.page(before=job.id)


class Interrupted:
    """Redis, with something that happens right after it has said where a job stands."""

    def __init__(self, redis: RedisClient, happens: Callable[[], object]) -> None:
        self._redis, self._happens = redis, iter([happens])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)

    def zrevrank(self, *arguments: Any) -> Any:
        rank = self._redis.zrevrank(*arguments)
        next(self._happens, lambda: None)()
        return rank


@pytest.mark.parametrize("change", ["a job comes", "a newer one is deleted"])
def test_a_page_skips_and_repeats_no_job_when_others_come_and_go(store: JobStore, redis: RedisClient, change: str) -> None:
    for _ in range(5):
        submit(store)
    newest, *rest = (job.id for job in store.page())
    happens = partial(submit, store) if change == "a job comes" else partial(store.delete, newest)
    page = JobStore(Interrupted(redis, happens)).page(before=rest[0])
    assert [job.id for job in page if job.id in (newest, *rest)] == rest[1:]  # one of the same millisecond may come behind


def test_a_page_may_be_of_one_api_key(store: JobStore) -> None:
    mine: list[str] = []
    for _ in range(5):
        submit(store, key_id="others")
        mine.append(submit(store, key_id="mine").id)
    first = store.page(limit=3, key_id="mine")
    rest = store.page(limit=3, key_id="mine", before=first.next)
    assert ([len(first.jobs), len(rest.jobs)], rest.next) == ([3, 2], None)
    assert sorted(job.id for job in (*first, *rest)) == sorted(mine)
    store.cancel(mine[0])
    assert [job.id for job in store.page(key_id="mine", state=JobState.CANCELLED)] == [mine[0]]
    assert store.page(key_id="nobody").jobs == []


def test_a_page_of_one_key_reads_no_record_of_another(store: JobStore) -> None:
    mine = submit(store, key_id="mine").id
    for _ in range(10):
        submit(store, key_id="others")
    page = store.page(key_id="mine", state=JobState.QUEUED, most_read=1)
    assert ([job.id for job in page], page.next) == ([mine], None)


def test_a_page_of_one_key_does_not_begin_behind_anothers_job(store: JobStore) -> None:
    others = submit(store, key_id="others")
    submit(store, key_id="mine")
    with pytest.raises(JobNotFound):
        store.page(key_id="mine", before=others.id)


def test_a_deleted_job_leaves_no_trace_in_the_lists(store: JobStore, redis: RedisClient) -> None:
    store.delete(submit(store, key_id="mine").id)
    assert list(redis.scan_iter("spillway:jobs*")) == []


def test_a_job_is_anothers_to_whoever_asks_with_another_key(store: JobStore) -> None:
    job = submit(store, key_id="mine")
    assert store.get(job.id, key_id="mine").id == store.get(job.id).id == job.id
    with pytest.raises(JobNotFound, match="it never was, it was deleted, or its time was over"):
        store.get(job.id, key_id="others")


def test_a_position_counts_the_jobs_before_it(store: JobStore) -> None:
    first, second, urgent = submit(store), submit(store), submit(store, priority=Priority.HIGH)
    assert [store.position(job) for job in (urgent, first, second)] == [0, 1, 2]
    assert store.position(claim(store)) is None


def test_a_jobs_standing_is_all_that_its_view_tells_of_the_queue(store: JobStore) -> None:
    first, second, urgent = submit(store), submit(store), submit(store, priority=Priority.HIGH)
    for slot in ("gpu1", "gpu0"):
        store.report_worker(WorkerReport(slot, True, "", "cuda", "large-v2"), ttl_s=60)
    for job in (first, second, urgent):
        standing = store.standing(job)
        assert (standing.position, standing.backlog, standing.workers) == (store.position(job), store.backlog(), store.workers())
    assert store.standing(claim(store)).position is None


def test_a_silent_worker_is_not_in_a_jobs_standing(store: JobStore, redis: RedisClient) -> None:
    store.report_worker(WorkerReport("gpu0", True, "", "cuda", "large-v2"), ttl_s=60)
    redis.delete("spillway:worker:gpu0")
    assert store.standing(submit(store)).workers == ()


def test_a_watcher_sees_every_state_to_the_end(store: JobStore) -> None:
    job_id = submit(store).id
    seen: list[JobState] = []
    watcher = threading.Thread(target=lambda: seen.extend(job.state for job in store.watch(job_id)))
    watcher.start()
    time.sleep(0.1)
    job = claim(store)
    time.sleep(0.1)
    store.succeed(job, result_key="r")
    watcher.join(timeout=5)
    assert [state for state, before in zip(seen, [None, *seen], strict=False) if state != before] == ["queued", "running", "succeeded"]


def test_a_change_whose_hint_got_lost_is_seen_all_the_same(store: JobStore, redis: RedisClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_store, "REREAD_S", 0.1)
    job_id = submit(store).id
    watched = store.watch(job_id, quiet_s=0.05)
    assert next(watched).progress == 0
    redis.hset(f"spillway:job:{job_id}", "progress", 0.5)
    wait_for(lambda: next(watched).progress == 0.5, "the record to be read again")


def test_a_watcher_that_is_connected_anew_reads_what_it_may_have_missed(
    store: JobStore, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_store, "REREAD_S", 600)
    job_id = submit(store).id
    watched = store.watch(job_id, quiet_s=0.05)
    next(watched)
    redis.client_kill_filter(_type="pubsub")
    redis.hset(f"spillway:job:{job_id}", "progress", 0.5)
    wait_for(lambda: next(watched).progress == 0.5, "the record to be read again")


def test_a_silent_worker_is_forgotten(store: JobStore) -> None:
    report = WorkerReport(
        "gpu0", False, "", "cpu", "tiny.en", state=WorkerState.DOWNLOADING, downloading=Download(1, 2, "a"), host="box", pid=7
    )
    store.report_worker(report, ttl_s=0.1)
    assert store.workers() == (report,)
    time.sleep(0.15)
    assert store.workers() == ()


def test_an_older_workers_report_is_read(store: JobStore, redis: RedisClient) -> None:
    """As it stands in Redis while an installation is brought up to date."""
    redis.set("spillway:worker:gpu0", '{"slot": "gpu0", "fit": true, "reason": "", "device": "cpu", "asr_model": "tiny.en"}')
    redis.sadd("spillway:workers", "gpu0")
    assert store.workers() == (WorkerReport("gpu0", True, "", "cpu", "tiny.en"),)
