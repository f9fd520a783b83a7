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
from core.errors import DiskFull, StorageUnavailable

FOLDER = "partial"  # where files grow until they are kept
LEFT_BEHIND_S = 24 * 3600  # nothing grows for that long: its process was killed
FULL = (errno.ENOSPC, errno.EDQUOT)
# A disk that was unmounted, or remounted read-only after an error of its own, a network's that is away, a copy that is another user's.
AWAY = (errno.ENOENT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENODEV, errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class StoredFile:
    key: str
    bytes: int
    sha256: str


class PartialFile:
    """Nowhere to be seen until it is kept."""

    def __init__(self, key: str, root: Path, settle: Callable[[Path], None]) -> None:
        """`settle` makes what lies at a path durable under the key, and may move it. Raises `DiskFull`, `StorageUnavailable`."""
        self._key, self._settle, self._temporary = key, settle, root / FOLDER / uuid4().hex
        self._hash = hashlib.sha256()
        self.bytes = 0
        with refusals_said():
            self._file = open(self._temporary, "xb")  # noqa: SIM115 - closed by keep or discard
        passed("begun", key)

    def write(self, chunk: bytes) -> int:
        """Raises `DiskFull`, `StorageUnavailable`."""
        with refusals_said():
            self._file.write(chunk)
        passed("written", self._key)
        self._hash.update(chunk)
        self.bytes += len(chunk)
        return len(chunk)

    def path(self) -> Path:
        """Where ffmpeg can read what was written until now. Raises `DiskFull`, `StorageUnavailable`."""
        with refusals_said():
            self._file.flush()
        return self._temporary

    def keep(self) -> StoredFile:
        """Durable once this returns. Raises `DiskFull`, `StorageUnavailable` and what the file store's own place raises."""
        with refusals_said():
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
def refusals_said() -> Iterator[None]:
    """What every file of the store would meet is no fault of the one at hand. Raises `DiskFull`, `StorageUnavailable`."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise DiskFull("the file store's disk is full: free some space or wait until old jobs are deleted") from error
        if error.errno in AWAY:
            where = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
            raise StorageUnavailable(f"the file store refuses ({where}): see that its disk is mounted, writable and ours") from error
        raise
