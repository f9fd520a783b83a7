"""One stack per folder: a lock that the kernel lets go of when its holder ends, however it ends, and a note of who holds it."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "stack.lock"
TURN_FILE = "start.lock"


class FolderTaken(Exception):
    """Another stack runs in the folder."""


@dataclass(frozen=True)
class Holder:
    pid: int
    url: str | None = None  # once jobs are taken there


@contextmanager
def held(folder: Path) -> Iterator[Callable[[Holder], None]]:
    """Gives the call that notes what is known of the holder. Raises `FolderTaken`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderTaken(f"a stack already runs in {folder}: stop it first") from error

        def note(holder: Holder | None) -> None:
            file.truncate(0)
            file.write(json.dumps(asdict(holder)) if holder else "")
            file.flush()

        note(Holder(os.getpid()))
        try:
            yield note
        finally:
            note(None)


@contextmanager
def turn(folder: Path, on_wait: Callable[[], object]) -> Iterator[None]:
    """One start at a time in a folder; `on_wait` is called once where another is under way."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / TURN_FILE).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def holder_of(folder: Path) -> Holder | None:
    """None if nobody holds it; what a killed holder left in the file does not count."""
    try:
        with (folder / FILE).open() as file:
            if _is_free(file.fileno()):
                return None
            text = file.read()
    except FileNotFoundError:
        return None
    return Holder(**json.loads(text)) if text else None


def _is_free(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
