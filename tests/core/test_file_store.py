"""The file store's contract, held by both of its implementations."""

import errno
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from core.bucket_file_store import BucketFileStore
from core.errors import SettingsError, StorageUnavailable
from core.file_store import FileStore
from core.gs_address import Place
from core.local_file_store import LocalFileStore
from core.partial_file import prepare
from core.settings import Settings
from core.storage import open_file_store
from tests.conftest import files_in, wait_for
from tests.gcs_server import CloudServer

MB = 1024**2


@dataclass(frozen=True)
class Opened:
    store: FileStore
    keys: Callable[[], list[str]]  # what is stored
    folder: Path  # on this machine

    def left_here(self) -> list[Path]:
        """Files on this machine that are not stored."""
        return [self.folder / name for name in files_in(self.folder) if name not in self.keys()]


@pytest.fixture(params=["local volume", "bucket"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    if request.param == "local volume":
        return Opened(LocalFileStore(tmp_path), lambda: files_under(tmp_path), tmp_path)
    cloud: CloudServer = request.getfixturevalue("cloud")
    bucket: str = request.getfixturevalue("bucket")
    store = BucketFileStore(request.getfixturevalue("connect_storage")(), Place(bucket, "one/installation"), tmp_path)
    cloud.put(bucket, "one/installation-too/jobs/a/input", b"another's")
    prefix = "one/installation/"
    return Opened(store, lambda: [name.removeprefix(prefix) for name in cloud.names(bucket) if name.startswith(prefix)], tmp_path)


@pytest.fixture
def store(opened: Opened) -> FileStore:
    return opened.store


def files_under(folder: Path) -> list[str]:
    return [name for name in files_in(folder) if not name.startswith("partial/")]


def test_a_kept_file_is_read_back_with_its_digest(store: FileStore) -> None:
    stored = store.write("jobs/a/input", b"hello")
    assert (stored.key, stored.bytes, stored.sha256[:8]) == ("jobs/a/input", 5, "2cf24dba")
    assert store.read("jobs/a/input") == b"hello"


@pytest.mark.parametrize("size", [0, 1, 8 * MB, 8 * MB + 1, 17 * MB])
def test_files_of_every_size_come_back_as_they_were(opened: Opened, size: int) -> None:
    content = bytes(range(251)) * (size // 251 + 1)
    opened.store.write("jobs/a/input", content[:size])
    assert opened.store.read("jobs/a/input") == content[:size]
    with opened.store.local_copy("jobs/a/input") as path:
        assert path.read_bytes() == content[:size]
    assert opened.left_here() == []


def test_a_file_is_nowhere_to_be_seen_until_it_is_kept(opened: Opened) -> None:
    partial = opened.store.start("jobs/a/input")
    partial.write(b"half")
    with pytest.raises(FileNotFoundError), opened.store.local_copy("jobs/a/input"):
        pass
    assert opened.keys() == []
    partial.keep()
    assert opened.store.read("jobs/a/input") == b"half"
    assert opened.left_here() == []


def test_what_was_written_can_be_looked_at_before_it_is_kept(store: FileStore) -> None:
    partial = store.start("jobs/a/input")
    partial.write(b"whole")
    assert partial.path().read_bytes() == b"whole"
    partial.discard()


def test_a_discarded_file_leaves_nothing_behind(opened: Opened) -> None:
    partial = opened.store.start("jobs/a/input")
    partial.write(b"half")
    partial.discard()
    assert (opened.keys(), opened.left_here()) == ([], [])


def test_a_file_written_again_is_replaced_whole(store: FileStore) -> None:
    store.write("jobs/a/products/1-asr.json", b"a long one")
    store.write("jobs/a/products/1-asr.json", b"short")
    assert store.read("jobs/a/products/1-asr.json") == b"short"


@pytest.mark.parametrize("size", [3, 9 * MB])
def test_what_is_written_once_is_never_replaced_but_may_be_written_again(opened: Opened, size: int) -> None:
    key = "jobs/a/transcript-1.json"
    for _ in range(2):
        assert opened.store.write_once(key, b"a" * size).bytes == size
    with pytest.raises(FileExistsError):
        opened.store.write_once(key, b"b" * size)
    assert opened.store.read(key) == b"a" * size
    assert opened.left_here() == []


def test_of_two_writers_one_wins(store: FileStore) -> None:
    together = threading.Barrier(2)

    def write(content: bytes) -> bytes | None:
        together.wait()
        try:
            store.write_once("jobs/a/transcript-1.json", content)
        except FileExistsError:
            return None
        return content

    with ThreadPoolExecutor(2) as pool:
        won = [content for content in pool.map(write, (b"one", b"two")) if content]
    assert won == [store.read("jobs/a/transcript-1.json")]


def test_a_missing_file_is_said_to_be_missing(store: FileStore) -> None:
    with pytest.raises(FileNotFoundError):
        store.read("jobs/a/input")


@pytest.mark.parametrize(
    "key", ["../secret", "jobs/../../x", "/etc/passwd", "jobs//x", "jobs/A", "", "jobs/a\0", ".hidden", "jobs/..", "a/\n"]
)
def test_only_our_own_names_are_keys(store: FileStore, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        store.read(key)


def test_deleting_a_job_takes_all_of_it_and_nothing_else(opened: Opened) -> None:
    for key in ("jobs/a/input", "jobs/a/transcript-1.json", "jobs/ab/input"):
        opened.store.write(key, b"x")
    opened.store.delete_job("a")
    assert opened.keys() == ["jobs/ab/input"]
    opened.store.delete_job("never-was")


def test_deleting_twice_is_no_error(opened: Opened) -> None:
    opened.store.write("jobs/a/input", b"x")
    for _ in range(2):
        opened.store.delete("jobs/a/input")
    assert opened.keys() == []


def test_a_store_that_can_be_written_has_no_fault_and_keeps_nothing_of_the_question(opened: Opened) -> None:
    wait_for(lambda: opened.store.fault() is None, "the store to be found fit")
    assert opened.left_here() == []
    assert opened.store.free_bytes() > MB


def test_what_a_killed_process_left_half_written_is_taken_away_after_a_day(opened: Opened) -> None:
    for name in ("left", "growing"):
        (opened.folder / "partial" / name).write_bytes(b"half")
    os.utime(opened.folder / "partial" / "left", (0, 0))
    opened.store.tidy()
    assert [path.name for path in opened.left_here()] == ["growing"]
    (opened.folder / "partial" / "left").write_bytes(b"half")
    os.utime(opened.folder / "partial" / "left", (0, 0))
    prepare(opened.folder)
    assert [path.name for path in opened.left_here()] == ["growing"]


def test_files_are_listed_with_their_size_and_when_they_were_stored(opened: Opened) -> None:
    before = time.time()
    for key in ("jobs/a/input", "jobs/a/transcript-1.json", "jobs/ab/input", "uploads/b"):
        opened.store.write(key, b"four")
    growing = opened.store.start("jobs/a/products/1-asr.json")
    listed = {file.key: file for file in opened.store.listed("jobs/a")}
    assert set(listed) == {"jobs/a/input", "jobs/a/transcript-1.json"}
    assert listed["jobs/a/input"].bytes == 4
    assert before - 1 <= listed["jobs/a/input"].stored_at <= time.time() + 1
    assert {file.key for file in opened.store.listed("jobs")} == {*listed, "jobs/ab/input"}
    assert list(opened.store.listed("jobs/never-was")) == []
    growing.discard()


def test_an_address_is_known_as_a_file_of_this_store_and_no_other(opened: Opened) -> None:
    store = opened.store
    if isinstance(store, BucketFileStore):
        assert store.key_of(str(store.place("uploads/a"))) == "uploads/a"
        assert store.key_of(f"{store.place('uploads/a')}/../B") is None
    for other in ("gs://another/one/installation/uploads/a", "https://example.org/a", ""):
        assert store.key_of(other) is None


def test_a_deleted_file_leaves_no_empty_folder_behind(tmp_path: Path) -> None:
    store = LocalFileStore(tmp_path)
    for key in ("jobs/a/input", "jobs/a/products/1-asr.json"):
        store.write(key, b"x")
    store.delete("jobs/a/products/1-asr.json")
    assert [path.name for path in (tmp_path / "jobs" / "a").iterdir()] == ["input"]
    store.delete("jobs/a/input")
    assert list((tmp_path / "jobs").iterdir()) == []


def test_a_file_is_kept_though_others_of_its_job_are_deleted_at_the_same_time(tmp_path: Path) -> None:
    store, stop = LocalFileStore(tmp_path), threading.Event()

    def delete() -> None:
        while not stop.wait(0.0001):
            store.delete("jobs/a/products/1-vad.json")

    with ThreadPoolExecutor(1) as pool:
        deleting = pool.submit(delete)
        try:
            for number in range(100):
                store.write("jobs/a/products/1-asr.json", str(number).encode())
                assert store.read("jobs/a/products/1-asr.json") == str(number).encode()
                store.delete("jobs/a/products/1-asr.json")
        finally:
            stop.set()
        deleting.result()


def test_empty_folders_of_killed_processes_are_taken_away_after_a_day(tmp_path: Path) -> None:
    store = LocalFileStore(tmp_path)
    for name in ("old", "new"):
        (tmp_path / "jobs" / name / "attempts").mkdir(parents=True)
    os.utime(tmp_path / "jobs" / "old" / "attempts", (0, 0))
    store.write("jobs/full/input", b"x")
    os.utime(tmp_path / "jobs" / "full", (0, 0))
    store.tidy()
    assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == ["full", "new"]


def test_a_folder_that_cannot_be_deleted_is_an_error_that_says_which(tmp_path: Path) -> None:
    store = LocalFileStore(tmp_path)
    (tmp_path / "jobs" / "a").write_bytes(b"no folder at all")
    with pytest.raises(StorageUnavailable, match="jobs/a cannot be deleted: Not a directory"):
        store.delete_job("a")


def test_the_settings_say_where_files_are(tmp_path: Path) -> None:
    assert isinstance(open_file_store(Settings(file_store_dir=tmp_path)), LocalFileStore)
    bucket = open_file_store(Settings(file_store_dir=tmp_path, file_store="gs://our-bucket/spillway"))
    assert isinstance(bucket, BucketFileStore)
    assert str(bucket.place("jobs/a/input")) == "gs://our-bucket/spillway/jobs/a/input"


def test_another_place_for_files_than_a_bucket_is_a_wrong_setting() -> None:
    with pytest.raises(SettingsError, match=r"SPILLWAY_FILE_STORE is wrong: write gs://bucket/prefix"):
        Settings.from_environment({"SPILLWAY_FILE_STORE": "/var/files"})


USES: dict[str, Callable[[FileStore], object]] = {
    "start": lambda store: store.start("jobs/b/input"),
    "write": lambda store: store.write("jobs/b/input", b"x"),
    "write once": lambda store: store.write_once("jobs/a/transcript-1.json", b"x"),
    "read": lambda store: store.read("jobs/a/input"),
    "read by ffmpeg": lambda store: store.local_copy("jobs/a/input").__enter__(),
    "delete": lambda store: store.delete("jobs/a/input"),
    "delete a job": lambda store: store.delete_job("a"),
    "list": lambda store: list(store.listed("jobs")),
    "tidy": lambda store: store.tidy(),
    "look for room": lambda store: store.free_bytes(),
}


@pytest.mark.parametrize("use", USES)
def test_a_store_that_was_unmounted_is_away_and_not_empty(tmp_path: Path, use: str) -> None:
    root, aside = tmp_path / "files", tmp_path / "aside"
    store = LocalFileStore(root)
    store.write("jobs/a/input", b"hello")
    root.rename(aside)
    root.mkdir()
    with pytest.raises(StorageUnavailable, match="mount it again"):
        USES[use](store)
    assert store.fault() == "the file store cannot be written"
    assert list(root.iterdir()) == []  # or it would pass for a store that is there
    root.rmdir()
    aside.rename(root)
    assert (store.read("jobs/a/input"), store.fault()) == (b"hello", None)


def test_a_file_that_grows_while_its_store_is_unmounted_is_not_kept_in_its_place(tmp_path: Path) -> None:
    root = tmp_path / "files"
    growing = LocalFileStore(root).start("jobs/a/input")
    growing.write(b"hello")
    root.rename(tmp_path / "aside")
    root.mkdir()
    with pytest.raises(StorageUnavailable, match="see that its disk is mounted"):
        growing.keep()
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_disk_that_takes_no_writes_is_away(store: FileStore, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(StorageUnavailable, match=os.strerror(number)):
        store.write("jobs/a/input", b"hello")
