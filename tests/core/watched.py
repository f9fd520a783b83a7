"""Witnesses: whether files were opened, a port was reached, a process or a file was left."""

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_native_id

from core import confined_process

OPENED = 0x20  # inotify(7)'s IN_OPEN
_libc = ctypes.CDLL(None, use_errno=True)


def children() -> set[str]:
    """Processes that this thread or the forkserver started and nobody waited for, dead ones included."""
    forkserver = confined_process._forkserver._pid
    return (_children_of(f"self/task/{get_native_id()}") | _children_of(f"{forkserver}/task/{forkserver}")) - {str(forkserver)}


def _children_of(task: str) -> set[str]:
    try:
        return set(Path(f"/proc/{task}/children").read_text().split())
    except FileNotFoundError:
        return set()


@contextmanager
def unopened(*paths: Path) -> Iterator[None]:
    """Fails if anybody opens one of them meanwhile."""
    watch = _libc.inotify_init1(os.O_NONBLOCK)
    assert all(_libc.inotify_add_watch(watch, bytes(path), OPENED) >= 0 for path in paths)
    try:
        yield
        try:
            seen = os.read(watch, 4096)
        except BlockingIOError:
            return
        raise AssertionError(f"a file was opened that is none of its business: {seen!r}")
    finally:
        os.close(watch)


@contextmanager
def unreached(server: socket.socket) -> Iterator[None]:
    yield
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return
    raise AssertionError("somebody connected")


@contextmanager
def nothing_left(*folders: Path) -> Iterator[None]:
    before, files = children(), _files(folders)
    yield
    assert children() == before
    assert _files(folders) == files


def _files(folders: tuple[Path, ...]) -> set[Path]:
    return {path for folder in folders for path in folder.rglob("*")}
