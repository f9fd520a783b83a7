"""Which files are synced, and which folders that lead to them: each name that may be new, and no other."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from core.file_store import fetched_key, input_key, product_key, result_key
from core.local_file_store import LocalFileStore

JOB = "a" * 32
FILE = "the file"
OWN, ALL = f"jobs/{JOB}", "jobs"


class Synced(list[str]):
    """What was handed to fsync, in order, as paths in the store; a file that still grows has no name yet."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root, self._fsync = root, os.fsync

    def __call__(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}")).relative_to(self._root)
        self.append(FILE if path.parts[:1] == ("partial",) else str(path))
        self._fsync(descriptor)


@pytest.fixture
def store(tmp_path: Path) -> LocalFileStore:
    return LocalFileStore(tmp_path)


@pytest.fixture
def synced(store: LocalFileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Synced:  # noqa: ARG001 - opened before
    seen = Synced(tmp_path)
    monkeypatch.setattr(os, "fsync", seen)
    return seen


def recording(store: LocalFileStore, key: str) -> None:
    file = store.start(key)
    file.write(b"RIFF")
    file.keep()


WRITES: dict[str, tuple[Callable[[LocalFileStore], object], list[str]]] = {
    "a recording": (lambda store: recording(store, input_key(JOB)), [FILE, OWN, ALL]),
    "a source": (lambda store: recording(store, fetched_key(JOB, 1)), [FILE, f"{OWN}/fetches/1", f"{OWN}/fetches", OWN, ALL]),
    "an upload": (lambda store: recording(store, "uploads/b"), [FILE, "uploads"]),
    "a product": (lambda store: store.write(product_key(JOB, 1, "asr"), b"{}", durable=False), []),
    "a result whose recording is not here": (lambda store: store.write_once(result_key(JOB, 1), b"{}"), [FILE, OWN, ALL]),
}


@pytest.mark.parametrize("what", WRITES)
def test_a_file_and_every_name_on_the_way_to_it_is_synced(store: LocalFileStore, synced: Synced, what: str) -> None:
    write, expected = WRITES[what]
    write(store)
    assert synced == expected


def test_a_result_relies_on_the_folder_that_its_recording_made_durable(store: LocalFileStore, synced: Synced) -> None:
    recording(store, input_key(JOB))
    synced.clear()
    store.write(product_key(JOB, 1, "asr"), b"{}", durable=False)
    store.write_once(result_key(JOB, 1), b"{}")
    assert synced == [FILE, OWN]


def test_a_folder_that_a_process_made_and_died_is_not_relied_on(store: LocalFileStore, synced: Synced, tmp_path: Path) -> None:
    """It is there, but a power cut may still take it away."""
    (tmp_path / OWN / "fetches" / "1").mkdir(parents=True)
    recording(store, fetched_key(JOB, 2))
    assert synced == [FILE, f"{OWN}/fetches/2", f"{OWN}/fetches", OWN, ALL]


def test_the_folders_of_all_jobs_and_uploads_are_durable_before_the_first_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Synced(tmp_path)
    monkeypatch.setattr(os, "fsync", seen)
    LocalFileStore(tmp_path)
    assert seen == ["."]
    assert {path.name for path in tmp_path.iterdir()} >= {"jobs", "uploads", "probes"}
