"""A slot's lock: a worker that starts in a slot takes its predecessor's jobs back, so that it must be sure of its death."""

import fcntl
import re
import socket
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO
from urllib.parse import quote

from core.crash_points import passed
from core.settings import Settings

FOLDER = "slots"
NUMBER = re.compile(r"\.\d+$")


@dataclass(frozen=True)
class Slot:
    """Ours until this process ends, however it ends: the kernel lets go of the lock."""

    name: str
    lock: IO[str]


def wanted_slot(settings: Settings) -> str:
    return settings.worker_slot or f"{socket.gethostname()}-{settings.device}-{settings.device_index}"


def slot_of_gpu(worker_slot: str, index: int) -> str:
    """Where one configuration starts a worker on each GPU."""
    return f"{worker_slot}-{index}"


def is_slot_of(settings: Settings, name: str) -> bool:
    """Whether a worker with these settings may have it, numbered or not, alone in the box or as one of several."""
    wanted = {wanted_slot(settings)} | ({slot_of_gpu(settings.worker_slot, settings.device_index)} if settings.worker_slot else set())
    return re.sub(NUMBER, "", name) in wanted or name in wanted


def is_taken(name: str, file_store_dir: Path) -> bool:
    """Whether a process alive has it. A look holds the lock for an instant: a worker that starts in that instant gets a number."""
    try:
        with _lock_path(name, file_store_dir).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no such lock, or no such folder
        return False
    return False


def take_slot(wanted: str, file_store_dir: Path) -> Slot:
    """`wanted`, or with the lowest number that nobody alive has: workers scaled with one configuration share a name.

    The file store is what all workers of one queue share. Raises `OSError` when it cannot be written.
    """
    (file_store_dir / FOLDER).mkdir(parents=True, exist_ok=True)
    for number in count(1):
        name = wanted if number == 1 else f"{wanted}.{number}"
        lock = _lock_path(name, file_store_dir).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            passed("slot", "taken")
            return Slot(name, lock)
    raise AssertionError("count() has no end")


def _lock_path(name: str, file_store_dir: Path) -> Path:
    return file_store_dir / FOLDER / f"{quote(name, safe='')}.lock"
