"""A slot's lock: a worker that starts in a slot takes its predecessor's jobs back, so that it must be sure of its death."""

import fcntl
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO
from urllib.parse import quote

FOLDER = "slots"


@dataclass(frozen=True)
class Slot:
    """Ours until this process ends, however it ends: the kernel lets go of the lock."""

    name: str
    lock: IO[str]


def take_slot(wanted: str, file_store_dir: Path) -> Slot:
    """`wanted`, or with the lowest number that nobody alive has: workers scaled with one configuration share a name.

    The file store is what all workers of one queue share. Raises `OSError` when it cannot be written.
    """
    folder = file_store_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        name = wanted if number == 1 else f"{wanted}.{number}"
        lock = (folder / f"{quote(name, safe='')}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            return Slot(name, lock)
    raise AssertionError("count() has no end")
