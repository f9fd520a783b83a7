"""What the dispatcher deletes when its time is over: real Redis, both file stores, and deletions that are cut short."""

import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from core.bucket_file_store import BucketFileStore
from core.errors import JobNotFound, StorageUnavailable, StoreUnavailable
from core.fetches import Fetches
from core.file_store import FileStore, fetched_key, input_key, product_key, result_key, upload_key
from core.gs_address import Place
from core.job import Fetched, Job, JobOptions, JobState, NewJob, Stage
from core.job_store import JobStore, Runner
from core.leased import Lease
from core.local_file_store import LocalFileStore
from core.outbox import Answer, DeliveryState, Outbox
from core.redis_steps import RedisClient, connect
from core.retention import Kept, Retention
from dispatcher.expiring import Expirer, Lifetimes
from tests.conftest import wait_for

RUNNER = Runner("slot", "boot")
ALL_OVER: Lifetimes = dict.fromkeys(Kept, 0.0)
FOR_EVER: Lifetimes = dict.fromkeys(Kept)
UPLOAD = "gs://{bucket}/ours/uploads/abc"


class Box:
    def __init__(self, redis: RedisClient, files: FileStore) -> None:
        self.redis, self.jobs, self.files, self.retention = redis, JobStore(redis), files, Retention(redis)
        self.made: list[Expirer] = []

    def expirer(self, lifetimes: Lifetimes, **options: Any) -> Expirer:
        self.made.append(Expirer(self.retention, self.files, lifetimes, **options))
        return self.made[-1]

    def queued(self, *, source: str | None = None, **changes: Any) -> str:
        job_id = f"{time.time_ns():x}"
        stored = self.files.write(fetched_key(job_id, 1) if source else input_key(job_id), b"recording")
        found = Fetched(duration_s=1.0, input_key=stored.key, input_bytes=stored.bytes, input_sha256=stored.sha256)
        at = {} if source else found.model_dump()
        self.jobs.submit(NewJob(id=job_id, filename="a", options=JobOptions(), source=source, **at, **changes), max_queued=10_000)
        if source:
            fetches = Fetches(self.redis, self.jobs)
            job = fetches.claim(Lease("me", 60, 3))
            assert job is not None
            fetches.complete(job, found)
        return job_id

    def running(self, **changes: Any) -> Job:
        """Its second attempt; the first has left a product, and a transcript that lost."""
        job_id = self.queued(**changes)
        for attempt in (1, 2):
            job = self.jobs.claim(RUNNER, lease_s=60, fits_s=1e6)
            assert job is not None
            key = product_key(job_id, attempt, "asr")
            self.files.write(key, b"words")
            self.jobs.keep_product(job, Stage.ASR, key)
            self.files.write(result_key(job_id, attempt), b"transcript")
            if attempt == 1:
                self.jobs.release(job)
        return self.jobs.get(job_id)

    def ended(self, **changes: Any) -> str:
        job = self.running(**changes)
        self.jobs.succeed(job, result_key=result_key(job.id, 2))
        return job.id

    def keys(self, folder: str = "jobs") -> list[str]:
        return sorted(file.key for file in self.files.listed(folder))

    def kept(self, job_id: str) -> set[str]:
        """Files of a job, without what all their names begin with."""
        return {key.removeprefix(f"jobs/{job_id}/") for key in self.keys(f"jobs/{job_id}")}

    def has(self, job_id: str) -> bool:
        try:
            return bool(self.jobs.get(job_id))
        except JobNotFound:
            return False


@pytest.fixture(params=["local volume", "bucket"])
def box(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[Box]:
    with connect(redis_url) as redis:
        made = Box(redis, LocalFileStore(tmp_path) if request.param == "local volume" else bucket_store(request, tmp_path))
        yield made
        for expirer in made.made:
            expirer.close()


@pytest.fixture
def local(redis_url: str, tmp_path: Path) -> Iterator[Box]:
    with connect(redis_url) as redis:
        made = Box(redis, LocalFileStore(tmp_path))
        yield made
        for expirer in made.made:
            expirer.close()


def bucket_store(request: pytest.FixtureRequest, scratch: Path) -> BucketFileStore:
    return BucketFileStore(request.getfixturevalue("connect_storage")(), Place(request.getfixturevalue("bucket"), "ours"), scratch)


def stepped(expirer: Expirer, until: Callable[[], object], what: str) -> None:
    wait_for(lambda: expirer.step() or until(), what)  # type: ignore[func-returns-value]


def lasting(**over: float) -> Lifetimes:
    return {**FOR_EVER, **{Kept(kept): lifetime_s for kept, lifetime_s in over.items()}}


WHOLE = {"input", "products/1-asr.json", "products/2-asr.json", "transcript-1.json", "transcript-2.json"}
WITHOUT: dict[str, set[str]] = {
    "inputs": {"input"},
    "products": {"products/1-asr.json", "products/2-asr.json", "transcript-1.json"},
    "results": WHOLE,
}


@pytest.mark.parametrize("kept", WITHOUT)
def test_each_kind_goes_in_its_own_time_and_takes_no_other_along(box: Box, kept: str) -> None:
    job_id, expirer = box.ended(), box.expirer(lasting(**{kept: 0.0}))
    stepped(expirer, lambda: box.kept(job_id) == WHOLE - WITHOUT[kept], f"the {kept} to go")
    stepped(expirer, lambda: not box.retention.expired(Kept(kept), lifetime_s=0, limit=1), "the record to say so")
    assert box.has(job_id) == (kept != "results")


def test_jobs_that_have_not_ended_are_never_touched(box: Box) -> None:
    ended, running, queued = box.ended(), box.running().id, box.queued()
    stepped(box.expirer(ALL_OVER), lambda: not box.has(ended), "the ended job to go")
    assert (box.jobs.get(queued).state, box.jobs.get(running).state) == (JobState.QUEUED, JobState.RUNNING)
    assert (box.kept(queued), box.kept(running)) == ({"input"}, WHOLE)


def test_what_is_kept_for_ever_or_for_longer_stays(local: Box) -> None:
    job_id = local.ended()
    for lifetimes in (FOR_EVER, dict.fromkeys(Kept, 3600.0)):
        expirer = local.expirer(lifetimes)
        for _ in range(5):
            expirer.step()
    assert (local.kept(job_id), local.has(job_id)) == (WHOLE, True)


def test_an_upload_that_came_by_a_signed_address_goes_with_the_inputs(
    request: pytest.FixtureRequest, redis_url: str, tmp_path: Path
) -> None:
    with connect(redis_url) as redis:
        box = Box(redis, bucket_store(request, tmp_path))
        for name in ("abc", "another"):
            box.files.write(upload_key(name), b"recording")
        bucket = request.getfixturevalue("bucket")
        job_id = box.ended(source=UPLOAD.format(bucket=bucket))
        expirer = box.expirer(lasting(inputs=0.0))
        stepped(expirer, lambda: box.keys("uploads") == ["uploads/another"], "the upload to go")
        assert (box.kept(job_id), box.has(job_id)) == (WHOLE - {"input"}, True)
        expirer.close()


def test_results_wait_for_their_deliveries(local: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(local.redis, local.jobs)
    job_id = local.ended(deliveries=({"kind": "output", "target": "gs://b/p", "host": "b"},))
    free = local.ended()
    monkeypatch.setattr("core.retention.HELD_BACK_S", 0.05)  # a clock, as good as
    expirer = local.expirer(ALL_OVER)
    stepped(expirer, lambda: not local.has(free), "the job that owes nothing to go")
    assert local.kept(job_id) >= {"transcript-2.json"}
    delivery = outbox.claim(Lease("me", 60, 3))
    assert delivery
    outbox.end(delivery, DeliveryState.DELIVERED, Answer())
    stepped(expirer, lambda: not local.has(job_id), "the delivered job to go")
    assert local.keys() == []


class Reluctant(LocalFileStore):
    """Deletes nothing of some jobs, or nothing until it is told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.refused: set[str] = set()
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def delete_job(self, job_id: str) -> None:
        assert self.may_go_on.wait(20)
        if job_id in self.refused:
            raise StorageUnavailable("not now")
        super().delete_job(job_id)


def test_a_file_store_that_deletes_slowly_holds_up_no_step(local: Box, tmp_path: Path) -> None:
    local.files = files = Reluctant(tmp_path)
    job_id = local.ended()
    files.may_go_on.clear()
    expirer = local.expirer(lasting(results=0.0))
    began = time.monotonic()
    for _ in range(10):
        expirer.step()
    assert (local.has(job_id), time.monotonic() - began < 5) == (True, True)
    files.may_go_on.set()
    stepped(expirer, lambda: not local.has(job_id), "the job to go")


def test_what_cannot_be_deleted_stays_recorded_and_is_tried_again(local: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local.files = files = Reluctant(tmp_path)
    stubborn, free = local.ended(), local.ended()
    files.refused.add(stubborn)
    monkeypatch.setattr("dispatcher.expiring.PAUSE_S", 0.01)
    expirer = local.expirer(lasting(results=0.0))
    stepped(expirer, lambda: not local.has(free), "the other job to go")
    assert local.has(stubborn)
    files.refused.clear()
    stepped(expirer, lambda: not local.has(stubborn), "the job to go")
    assert local.keys() == []


def test_a_leader_that_dies_between_the_files_and_the_record_leaves_only_work_to_repeat(local: Box) -> None:
    class Dying(Retention):
        def let_go(self, *_: object) -> None:
            raise StoreUnavailable("killed here")

    job_id = local.ended()
    dying = Expirer(Dying(local.redis), local.files, lasting(results=0.0))
    with pytest.raises(StoreUnavailable):
        stepped(dying, lambda: False, "the death")
    dying.close()
    assert (local.keys(), local.has(job_id)) == ([], True)
    stepped(local.expirer(lasting(results=0.0)), lambda: not local.has(job_id), "the record to go")


def test_many_go_in_portions(local: Box) -> None:
    jobs = [local.ended() for _ in range(7)]
    expirer = local.expirer(lasting(results=0.0), most_at_once=3)
    gone = [0]
    while gone[-1] < len(jobs):
        expirer.step()
        wait_for(lambda: expirer._portion is None or expirer._portion.is_over, "the portion")
        gone.append(sum(not local.has(job_id) for job_id in jobs))
    assert max(later - before for before, later in pairwise(gone)) == 3
