from pathlib import Path

import pytest

from core.file_store import LocalFileStore


@pytest.fixture
def files(tmp_path: Path) -> LocalFileStore:
    return LocalFileStore(tmp_path)


def everything_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_kept_file_is_read_back_with_its_digest(files: LocalFileStore) -> None:
    stored = files.write("jobs/a/input", b"hello")
    assert (stored.bytes, stored.sha256[:8]) == (5, "2cf24dba")
    assert files.read("jobs/a/input") == b"hello"


def test_a_file_is_nowhere_to_be_seen_until_it_is_kept(files: LocalFileStore) -> None:
    partial = files.start("jobs/a/input")
    partial.write(b"half")
    with pytest.raises(FileNotFoundError, match="holds no"):
        files.local_path("jobs/a/input")
    partial.keep()
    assert files.local_path("jobs/a/input").read_bytes() == b"half"


def test_a_discarded_file_leaves_nothing_behind(files: LocalFileStore, tmp_path: Path) -> None:
    partial = files.start("jobs/a/input")
    partial.write(b"half")
    partial.discard()
    assert everything_under(tmp_path) == []


@pytest.mark.parametrize(
    "key", ["../secret", "jobs/../../x", "/etc/passwd", "jobs//x", "jobs/A", "", "jobs/a\0", ".hidden", "jobs/..", "a/\n"]
)
def test_only_our_own_names_are_keys(files: LocalFileStore, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        files.read(key)


def test_deleting_a_job_takes_all_of_it_and_nothing_else(files: LocalFileStore, tmp_path: Path) -> None:
    for key in ("jobs/a/input", "jobs/a/attempts/1/transcript.json", "jobs/b/input"):
        files.write(key, b"x")
    files.delete_job("a")
    assert everything_under(tmp_path) == [tmp_path / "jobs/b/input"]
    files.delete_job("never-was")
