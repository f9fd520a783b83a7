"""A file that grows on this machine, hashed on the way, until it is kept in its place or thrown away."""

import errno
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import time
from uuid import uuid4

from core.crash_points import passed
from core.errors import DiskFull

FOLDER = "partial"  # where files grow until they are kept
LEFT_BEHIND_S = 24 * 3600  # nothing grows for that long: its process was killed


@dataclass(frozen=True)
class StoredFile:
    key: str
    bytes: int
    sha256: str


class PartialFile:
    """Nowhere to be seen until it is kept."""

    def __init__(self, key: str, root: Path, settle: Callable[[Path], None]) -> None:
        """`settle` makes what lies at a path durable under the key, and may move it. Raises `DiskFull`."""
        self._key, self._settle, self._temporary = key, settle, root / FOLDER / uuid4().hex
        self._hash = hashlib.sha256()
        self.bytes = 0
        with full_disk_said():
            self._file = open(self._temporary, "xb")  # noqa: SIM115 - closed by keep or discard
        passed("begun", key)

    def write(self, chunk: bytes) -> int:
        """Raises `DiskFull`."""
        with full_disk_said():
            self._file.write(chunk)
        passed("written", self._key)
        self._hash.update(chunk)
        self.bytes += len(chunk)
        return len(chunk)

    def path(self) -> Path:
        """Where ffmpeg can read what was written until now. Raises `DiskFull`."""
        with full_disk_said():
            self._file.flush()
        return self._temporary

    def keep(self) -> StoredFile:
        """Durable once this returns. Raises `DiskFull` and what the file store's own place raises."""
        with full_disk_said():
            self._file.close()
            self._settle(self._temporary)
        self._temporary.unlink(missing_ok=True)
        passed("kept", self._key)
        return StoredFile(self._key, self.bytes, self._hash.hexdigest())

    def discard(self) -> None:
        """Leaves nothing behind; does nothing to a file that was kept."""
        self._temporary.unlink(missing_ok=True)
        with suppress(OSError):  # a full disk refuses the last buffered bytes once more
            self._file.close()
        passed("discarded", self._key)


def prepare(root: Path) -> None:
    """Makes the folder where files grow, and takes away what killed processes left in it."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process does the same, or keeps it
            if is_left_behind(path):
                path.unlink()


def is_left_behind(path: Path) -> bool:
    return path.stat().st_mtime < time() - LEFT_BEHIND_S


def written(started: PartialFile, content: bytes) -> StoredFile:
    try:
        started.write(content)
        return started.keep()
    finally:
        started.discard()


@contextmanager
def full_disk_said() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull("the file store's disk is full: free some space or wait until old jobs are deleted") from error
        raise
