"""Files without a job and jobs without a file, in both file stores."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from core.bucket_file_store import BucketFileStore
from core.file_store import FileStore, Listed, fetched_key, input_key, product_key, result_key, upload_key
from core.gs_address import Place
from core.inventory import Expected, Inventory
from core.job import JobOptions, NewJob
from core.job_store import JobStore, Runner
from core.local_file_store import LocalFileStore
from core.redis_steps import RedisClient, connect
from dispatcher import orphans
from dispatcher.orphans import SAFE_AGE_S, UPLOAD_AGE_S, delete, look
from dispatcher.tidying import REMEDY, Tidier
from tests.conftest import wait_for

RUNNER = Runner("slot", "boot")


class Box:
    def __init__(self, redis: RedisClient, files: FileStore) -> None:
        self.redis, self.jobs, self.files, self.inventory = redis, JobStore(redis), files, Inventory(redis)

    def queued(self, job_id: str, *, source: str | None = None) -> str:
        at = {} if source else {"input_key": self.files.write(input_key(job_id), b"recording").key, "duration_s": 1.0}
        self.jobs.submit(NewJob(id=job_id, filename="a", options=JobOptions(), source=source, **at), max_queued=100)
        return job_id

    def succeeded(self, job_id: str) -> str:
        self.queued(job_id)
        job = self.jobs.claim(RUNNER, lease_s=60, fits_s=1e6)
        assert job is not None
        key = self.files.write(result_key(job_id, job.attempt), b"transcript").key
        self.jobs.succeed(job, result_key=key)
        return job_id

    def keys(self) -> set[str]:
        return {file.key for folder in ("jobs", "uploads") for file in self.files.listed(folder)}

    def orphans(self, age_s: float) -> set[str]:
        """The old ones, `age_s` from now."""
        return {file.key for file in look(self.inventory, self.files, clock=lambda: time.time() + age_s).old}


@pytest.fixture(params=["local volume", "bucket"])
def box(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[Box]:
    files: FileStore = LocalFileStore(tmp_path)
    if request.param == "bucket":
        place = Place(request.getfixturevalue("bucket"), "ours")
        files = BucketFileStore(request.getfixturevalue("connect_storage")(), place, tmp_path)
    with connect(redis_url) as redis:
        yield Box(redis, files)


@pytest.fixture
def local(redis_url: str, tmp_path: Path) -> Iterator[Box]:
    with connect(redis_url) as redis:
        yield Box(redis, LocalFileStore(tmp_path))


LOST = (input_key("lost"), fetched_key("lost", 1), product_key("lost", 1, "asr"), result_key("lost", 1))


def test_files_of_no_job_are_found_and_deleted_once_they_are_old_and_all_others_stay(box: Box) -> None:
    box.queued("waits")
    box.succeeded("done")
    recorded = box.keys()
    for key in LOST:
        box.files.write(key, b"x")
    young = look(box.inventory, box.files)
    assert {orphan.file.key for orphan in young.orphans} == set(LOST)
    assert (young.old, young.missing) == ([], [])
    old = look(box.inventory, box.files, clock=lambda: time.time() + SAFE_AGE_S + 60)
    assert (old.told(0).files, old.told(0).bytes) == (4, 4)
    assert delete(old.old, box.inventory, box.files) == 4
    assert box.keys() == recorded


def test_a_signed_upload_is_kept_for_a_week_and_for_as_long_as_a_job_is_to_fetch_it(box: Box) -> None:
    for name in ("abandoned", "awaited"):
        box.files.write(upload_key(name), b"x")
    if isinstance(box.files, BucketFileStore):
        box.queued("fetching", source=str(box.files.place(upload_key("awaited"))))
    else:
        box.files.delete(upload_key("awaited"))
    assert box.orphans(UPLOAD_AGE_S - 60) == set()
    assert box.orphans(UPLOAD_AGE_S + 60) == {upload_key("abandoned")}


class Racing(LocalFileStore):
    """Lets something happen after the files were listed."""

    def __init__(self, root: Path, after: Callable[[], object]) -> None:
        super().__init__(root)
        self._after = after

    def listed(self, folder: str) -> Iterator[Listed]:
        yield from list(super().listed(folder))
        if folder == "jobs":
            self._after()


def test_a_file_whose_record_came_after_the_list_was_made_is_no_orphan(local: Box, tmp_path: Path) -> None:
    local.files.write(input_key("late"), b"recording")
    late = NewJob(id="late", filename="a", options=JobOptions(), input_key=input_key("late"), duration_s=1.0)
    local.files = Racing(tmp_path, lambda: local.jobs.submit(late, max_queued=10))
    assert local.orphans(SAFE_AGE_S + 60) == set()


def test_a_job_that_came_whole_after_the_list_was_made_misses_nothing(local: Box, tmp_path: Path) -> None:
    plain = local.files

    def come() -> None:
        local.files = plain
        local.succeeded("quick")
        local.queued("new")

    racing = Racing(tmp_path, come)
    assert look(local.inventory, racing).missing == []


def test_an_orphan_whose_job_is_back_when_it_is_deleted_stays(local: Box) -> None:
    """As when Redis is restored from a backup between the two."""
    local.files.write(input_key("back"), b"recording")
    found = look(local.inventory, local.files, clock=lambda: time.time() + SAFE_AGE_S + 60)
    local.queued("back")
    assert delete(found.old, local.inventory, local.files) == 0
    assert local.keys() == {input_key("back")}


def test_a_queued_job_without_its_recording_and_a_result_that_is_gone_are_found(box: Box) -> None:
    for job_id in ("done", "whole"):
        box.succeeded(job_id)
    box.queued("waits")
    assert look(box.inventory, box.files).missing == []
    box.files.delete(input_key("waits"))
    box.files.delete(result_key("done", 1))
    missing = {Expected("waits", input_key("waits")), Expected("done", result_key("done", 1))}
    assert set(look(box.inventory, box.files).missing) == missing


# The dispatcher's own look


def tidied(box: Box, tidier: Tidier) -> None:
    tidier.step()
    wait_for(lambda: box.inventory.told() is not None, "the look")
    assert tidier._thread is not None
    tidier._thread.join()


def test_the_dispatcher_tells_what_it_found_and_deletes_what_is_old(local: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local.queued("waits")
    local.files.delete(input_key("waits"))
    for key in LOST:
        local.files.write(key, b"x")
    kept = input_key(local.queued("whole"))
    monkeypatch.setattr("dispatcher.orphans.SAFE_AGE_S", -60.0)
    (tmp_path / "jobs" / "empty").mkdir()
    with capture_logs() as logs:
        tidied(local, Tidier(local.inventory, local.files))
    told = local.inventory.told()
    assert told is not None
    assert (told.files, told.missing, local.keys()) == (4, 1, {kept})
    looked, missing = logs
    assert (looked["event"], looked["log_level"], looked["deleted"]) == ("looked for orphans", "warning", 4)
    assert (missing["job_id"], missing["key"]) == ("waits", input_key("waits"))


def test_no_file_is_deleted_when_it_is_the_records_that_are_lost(local: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        local.queued(f"job{number}")
    local.redis.flushall()
    monkeypatch.setattr("dispatcher.orphans.SAFE_AGE_S", -60.0)
    monkeypatch.setattr("dispatcher.orphans.MOST_JOBS", 3)
    with capture_logs() as logs:
        tidied(local, Tidier(local.inventory, local.files))
    assert len(local.keys()) == 4
    assert [line["remedy"] for line in logs if line["log_level"] == "error"] == [REMEDY]
    local.queued("job0")
    tidied(local, Tidier(local.inventory, local.files, every_s=0.0))
    assert local.keys() == {input_key("job0")}


def test_a_leader_looks_only_when_no_other_has_looked_lately(local: Box) -> None:
    tidied(local, Tidier(local.inventory, local.files))
    before = local.inventory.told()
    other = Tidier(local.inventory, local.files)
    other.step()
    assert (other._thread, local.inventory.told()) == (None, before)
    again = Tidier(local.inventory, local.files, every_s=0.0)
    again.step()
    wait_for(lambda: local.inventory.told() != before, "another look")


def test_the_command_lists_everything_and_deletes_when_it_is_told_to(
    local: Box, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPILLWAY_REDIS_URL", redis_url)
    monkeypatch.setenv("SPILLWAY_FILE_STORE_DIR", str(tmp_path))
    local.succeeded("done")
    local.files.delete(result_key("done", 1))
    local.files.write(input_key("lost"), b"four")
    assert orphans.main([]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "young\tjobs/lost/input\t4",
        "missing\tjobs/done/transcript-1.json",
        "0 old files without a job (0 bytes), 1 young ones that may yet get one, 1 files that jobs lack",
    ]
    monkeypatch.setattr("dispatcher.orphans.SAFE_AGE_S", -60.0)
    assert orphans.main(["--delete"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("old\tjobs/lost/input\t4\n")
    assert out.endswith("; 1 deleted\n")
    assert local.keys() == {input_key("done")}


def test_the_command_says_that_redis_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SPILLWAY_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("SPILLWAY_FILE_STORE_DIR", str(tmp_path))
    LocalFileStore(tmp_path).write(input_key("a"), b"x")
    assert orphans.main([]) == 1
    assert "Redis does not answer" in capsys.readouterr().err
