"""The file store on a local volume."""

import filecmp
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from core.crash_points import passed
from core.errors import DiskFull
from core.file_store import PROBE_KEY, checked, never
from core.partial_file import PartialFile, StoredFile, prepare, written


class LocalFileStore:
    """Files under one folder, each written beside its place and renamed into it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        prepare(root)

    def start(self, key: str) -> PartialFile:
        return PartialFile(key, self._root, partial(self._settle, key, os.replace))

    def write(self, key: str, content: bytes) -> StoredFile:
        return written(self.start(key), content)

    def write_once(self, key: str, content: bytes) -> StoredFile:
        return written(PartialFile(key, self._root, partial(self._settle, key, _link)), content)

    def read(self, key: str) -> bytes:
        return self._path(key).read_bytes()

    @contextmanager
    def local_copy(self, key: str, check: Callable[[], None] = never) -> Iterator[Path]:  # noqa: ARG002 - the file itself: nothing is copied
        path = self._path(key)
        if not path.is_file():
            raise FileNotFoundError(f"the file store holds no {key}")
        yield path

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)
        passed("deleted", key)

    def delete_job(self, job_id: str) -> None:
        folder = f"jobs/{job_id}"
        shutil.rmtree(self._path(folder), ignore_errors=True)
        passed("deleted", folder)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._root).free

    def fault(self) -> str | None:
        try:
            self.start(PROBE_KEY).discard()
        except (OSError, DiskFull):
            return "the file store cannot be written"
        return None

    def _path(self, key: str) -> Path:
        return self._root / checked(key)

    def _settle(self, key: str, place: Callable[[Path, Path], None], temporary: Path) -> None:
        """The bytes are synced, then the name."""
        final = self._path(key)
        final.parent.mkdir(parents=True, exist_ok=True)
        _sync(temporary)
        passed("synced", key)
        place(temporary, final)
        passed("placed", key)
        for folder in final.parents:  # a file is only as durable as the names on the way to it
            _sync(folder)
            if folder == self._root:
                return


def _link(temporary: Path, final: Path) -> None:
    """As a rename, but it never replaces."""
    try:
        os.link(temporary, final)
    except FileExistsError:
        if not filecmp.cmp(temporary, final, shallow=False):
            raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
