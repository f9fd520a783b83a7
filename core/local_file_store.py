"""The file store on a local volume."""

import errno
import filecmp
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePath
from typing import BinaryIO

from core.crash_points import passed
from core.errors import DiskFull, StorageUnavailable
from core.file_store import FOLDERS, JOBS, PROBE_KEY, Listed, checked, never
from core.partial_file import PartialFile, StoredFile, is_left_behind, prepare, refusals_said, written

Place = Callable[[Path, Path], None]  # puts the first under the name of the second
TRIES = 20  # where somebody else deletes, or writes, in the same folder at the same time: on a busy machine five were not enough


class LocalFileStore:
    """Files under one folder, each written beside its place and renamed into it.

    The folder is made by the start of a process and never again: one that is gone later was unmounted or moved, and must not be taken
    for a store that has lost all its files.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        prepare(root)
        for folder in FOLDERS:  # durable once for all, so that no file syncs what is above them
            (root / folder).mkdir(exist_ok=True)
        _sync(root)

    def start(self, key: str) -> PartialFile:
        self._check_there()
        return PartialFile(key, self._root, partial(self._settle, key, os.replace))

    def write(self, key: str, content: bytes, *, durable: bool = True) -> StoredFile:
        self._check_there()
        settle = self._settle if durable else self._place
        return written(PartialFile(key, self._root, partial(settle, key, os.replace)), content)

    def write_once(self, key: str, content: bytes) -> StoredFile:
        self._check_there()
        return written(PartialFile(key, self._root, partial(self._settle, key, _link, has_record=True)), content)

    def read(self, key: str) -> bytes:
        with self._opened(key) as file:
            return file.read()

    @contextmanager
    def local_copy(self, key: str, check: Callable[[], None] = never) -> Iterator[Path]:  # noqa: ARG002 - the file itself: nothing is copied
        with self._opened(key):
            pass
        yield self._path(key)

    def delete(self, key: str) -> None:
        path = self._path(key)
        self._check_there()
        with _refusals_said():
            path.unlink(missing_ok=True)
        self._drop_empty(path.parent)
        passed("deleted", key)

    def delete_job(self, job_id: str) -> None:
        key = f"{JOBS}/{job_id}"
        folder = self._path(key)
        self._check_there()
        with _refusals_said():
            for _ in range(TRIES):
                shutil.rmtree(folder, onerror=_unless_gone)
                if not folder.exists():
                    break
        passed("deleted", key)

    def listed(self, folder: str) -> Iterator[Listed]:
        self._check_there()
        top = str(self._path(folder))
        for path, _, names in os.walk(top):
            for name in names:
                file = f"{path}/{name}"
                with suppress(FileNotFoundError):
                    found = os.stat(file)
                    yield Listed(folder + file[len(top) :], found.st_size, found.st_mtime)

    def key_of(self, address: str) -> str | None:  # noqa: ARG002 - nothing here has an address
        return None

    def tidy(self) -> None:
        self._check_there()
        prepare(self._root)
        for path, _, _ in os.walk(self._root / JOBS, topdown=False):
            with suppress(FileNotFoundError):
                if is_left_behind(Path(path)):
                    self._drop_empty(Path(path))

    def free_bytes(self) -> int:
        self._check_there()
        return shutil.disk_usage(self._root).free

    def fault(self) -> str | None:
        try:
            self.start(PROBE_KEY).discard()
        except (OSError, DiskFull, StorageUnavailable):
            return "the file store cannot be written"
        return None

    def _path(self, key: str) -> Path:
        return self._root / checked(key)

    def _check_there(self) -> None:
        """Raises `StorageUnavailable`."""
        if not (self._root / JOBS).is_dir():
            raise StorageUnavailable(
                f"the file store is gone: there is no {self._root / JOBS} any more; mount it again or put it back,"
                " or start every process again for one that begins empty"
            )

    def _opened(self, key: str) -> BinaryIO:
        """Raises `FileNotFoundError` where the store is there and the file is not."""
        path = self._path(key)
        try:
            return path.open("rb")
        except FileNotFoundError:
            self._check_there()
            raise
        except OSError:
            with refusals_said():
                raise

    def _settle(self, key: str, place: Place, temporary: Path, *, has_record: bool = False) -> None:
        """The bytes are synced, then each name on the way to them that may be new, whoever made it."""
        final = self._path(key)
        top, owner = (self._root / "/".join(key.split("/")[:depth]) for depth in (1, 2))
        last = owner if has_record and owner.is_dir() else top  # a recording's folder was made durable with it, before its record
        _sync(temporary)
        passed("synced", key)
        self._place(key, place, temporary)
        for folder in final.parents:
            _sync(folder)
            if folder in (last, self._root):
                return

    def _place(self, key: str, place: Place, temporary: Path) -> None:
        final = self._path(key)
        for tries_left in reversed(range(TRIES)):
            try:
                self._make_folders(key)
                place(temporary, final)
            except FileNotFoundError:  # the folder was empty, and has just been dropped for it
                if not tries_left:
                    raise
            else:
                return passed("placed", key)

    def _make_folders(self, key: str) -> None:
        """But not the topmost: where that is gone, so is the store."""
        for folder in list(PurePath(key).parents)[-3::-1]:  # the last two are the topmost and the root
            with suppress(FileExistsError):  # without a look whether it is a folder, since it may be dropped before that
                (self._root / folder).mkdir()

    def _drop_empty(self, folder: Path) -> None:
        """And those above it that are empty then; a job's files leave no folder behind."""
        with suppress(OSError):  # one that is not empty, mostly
            while folder.parent != self._root and folder != self._root:
                folder.rmdir()
                folder = folder.parent


def _unless_gone(_call: object, _path: str, raised: tuple[type[BaseException], BaseException, object]) -> None:
    if isinstance(raised[1], OSError) and raised[1].errno in (errno.ENOENT, errno.ENOTEMPTY):
        return  # another took it, or has added to it: the next try sees
    raise raised[1]


@contextmanager
def _refusals_said() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(f"{error.filename} cannot be deleted: {error.strerror}; see whose it is") from error


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
