"""The file store on a local volume: uploads, stage products, transcripts. Whatever is there is whole and on the disk."""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from core.errors import DiskFull

KEY = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*")  # our own names only: nothing that a client sends is a path

SPARE_BYTES = 64 * 1024**2  # room that whoever stores a recording leaves to everybody else
PARTIAL = "partial"  # where files grow until they are kept


@dataclass(frozen=True)
class StoredFile:
    key: str
    bytes: int
    sha256: str


class PartialFile:
    """A file being written: hashed on the way, and nowhere to be seen until it is kept."""

    def __init__(self, root: Path, key: str) -> None:
        """Raises `DiskFull`."""
        self._root, self._key = root, key
        self._final, self._temporary = root / key, root / PARTIAL / uuid4().hex
        with _full_disk_said():
            self._final.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self._temporary, "xb")  # noqa: SIM115 - closed by keep or discard
        self._hash = hashlib.sha256()
        self.bytes = 0

    def write(self, chunk: bytes) -> int:
        """Raises `DiskFull`."""
        with _full_disk_said():
            self._file.write(chunk)
        self._hash.update(chunk)
        self.bytes += len(chunk)
        return len(chunk)

    def keep(self) -> StoredFile:
        """Durable once this returns: the bytes are synced, then the name. Raises `DiskFull`."""
        with _full_disk_said():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self._final)
            _sync_folders(self._final.parent, self._root)
        return StoredFile(self._key, self.bytes, self._hash.hexdigest())

    def discard(self) -> None:
        """Leaves nothing behind; does nothing to a file that was kept."""
        self._temporary.unlink(missing_ok=True)
        with suppress(OSError):  # a full disk refuses the last buffered bytes once more
            self._file.close()


class LocalFileStore:
    """Files under one folder, each written beside its place and renamed into it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        (root / PARTIAL).mkdir(parents=True, exist_ok=True)

    def start(self, key: str) -> PartialFile:
        """Raises `DiskFull`."""
        self._path(key)
        return PartialFile(self._root, key)

    def write(self, key: str, content: bytes) -> StoredFile:
        """Raises `DiskFull`; what was there under the key is replaced whole."""
        partial = self.start(key)
        try:
            partial.write(content)
            return partial.keep()
        finally:
            partial.discard()

    def read(self, key: str) -> bytes:
        """Raises `FileNotFoundError`."""
        return self._path(key).read_bytes()

    def local_path(self, key: str) -> Path:
        """Where ffmpeg can read it. Raises `FileNotFoundError`."""
        path = self._path(key)
        if not path.is_file():
            raise FileNotFoundError(f"the file store holds no {key}")
        return path

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def delete_job(self, job_id: str) -> None:
        shutil.rmtree(self._path(f"jobs/{job_id}"), ignore_errors=True)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._root).free

    def _path(self, key: str) -> Path:
        if not KEY.fullmatch(key):
            raise ValueError(f"not a key of the file store: {key!r}")
        return self._root / key


def input_key(job_id: str) -> str:
    return f"jobs/{job_id}/input"


def fetched_key(job_id: str, token: int) -> str:
    """Under the fetch's own token: one that lost its lease overwrites nobody."""
    return f"jobs/{job_id}/fetches/{token}/input"


def product_key(job_id: str, attempt: int, stage: str) -> str:
    return f"jobs/{job_id}/products/{attempt}-{stage}.json"


def result_key(job_id: str, attempt: int) -> str:
    """Under the attempt's own name: a runner that lost its lease overwrites nobody."""
    return f"jobs/{job_id}/attempts/{attempt}/transcript.json"


@contextmanager
def _full_disk_said() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull("the file store's disk is full: free some space or wait until old jobs are deleted") from error
        raise


def _sync_folders(folder: Path, root: Path) -> None:
    """From the folder up to the root: a file is only as durable as the names on the way to it."""
    for place in (folder, *folder.parents):
        _sync_folder(place)
        if place == root:
            return


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
