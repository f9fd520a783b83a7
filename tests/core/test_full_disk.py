"""The local file store on a real disk that is full."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.errors import DiskFull
from core.local_file_store import LocalFileStore
from core.partial_file import StoredFile
from tests.conftest import files_in
from tests.disk import fill, make_room, small_disk

MB = 1024**2


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 4) as mounted:
        yield mounted


def grow(store: LocalFileStore) -> StoredFile:
    growing = store.start("jobs/b/input")
    try:
        for _ in range(8):
            growing.write(bytes(MB))
        return growing.keep()
    finally:
        growing.discard()


WRITES: dict[str, Callable[[LocalFileStore], StoredFile]] = {
    "grown": grow,
    "replaced": lambda store: store.write("jobs/a/input", bytes(5 * MB)),
    "written once": lambda store: store.write_once("jobs/b/transcript-1.json", bytes(5 * MB)),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_write_that_does_not_fit_leaves_what_was_there_and_nothing_half(disk: Path, write: str) -> None:
    store = LocalFileStore(disk)
    store.write("jobs/a/input", b"before")
    with pytest.raises(DiskFull, match="free some space or wait until old jobs are deleted"):
        WRITES[write](store)
    assert (files_in(disk), store.read("jobs/a/input")) == (["jobs/a/input"], b"before")


def test_a_full_disk_that_gets_room_again_is_written_again(disk: Path) -> None:
    store = LocalFileStore(disk)
    store.write("jobs/a/input", b"before")
    fill(disk)
    assert (store.free_bytes(), store.read("jobs/a/input")) == (0, b"before")
    for _ in range(2):
        with pytest.raises(DiskFull):
            store.write("jobs/b/input", b"a few bytes that stay in the buffer until it is closed")
    make_room(disk)
    store.write("jobs/b/input", b"after")
    assert files_in(disk) == ["jobs/a/input", "jobs/b/input"]


def test_jobs_are_deleted_from_a_full_disk(disk: Path) -> None:
    store = LocalFileStore(disk)
    store.write("jobs/a/input", bytes(MB))
    fill(disk)
    store.delete_job("a")
    assert store.free_bytes() >= MB
