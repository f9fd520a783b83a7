"""Forks confined programs for the process that started it.

A program of its own, since code between fork and exec is unsafe beside threads; and one that stays, since an interpreter takes as long
to start as ffmpeg takes to probe a recording. Its standard input is a socket: each message is an order, with the descriptors of stdin,
stdout, stderr and of a socket of that run, on which the exit status is told. The program is killed when that socket's other end is shut,
and everything when the other end of the standard input is. `core/confined_process.py` is at these ends.
"""

import json
import os
import signal
import socket
from contextlib import suppress
from selectors import EVENT_READ, DefaultSelector
from typing import Any, NoReturn

from core.confine import DOES_NOT_START, confine

ORDER_BYTES = 64 * 1024


class Forkserver:
    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        self._runs: dict[int, socket.socket] = {}  # by process id
        self._selector = DefaultSelector()

    def serve(self) -> None:
        """Until the other end of `orders` is shut."""
        some_ended, wakes = socket.socketpair()
        wakes.setblocking(False)
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(self._orders, EVENT_READ)
        self._selector.register(some_ended, EVENT_READ)
        while True:
            for key, _ in self._selector.select():
                if key.data is not None:
                    self._kill(key.data)
                elif key.fileobj is some_ended:
                    some_ended.recv(4096)
                    self._reap()
                elif not self._obey():
                    return

    def _obey(self) -> bool:
        """False at the end of the orders."""
        order, descriptors, _, _ = socket.recv_fds(self._orders, ORDER_BYTES, 4, socket.MSG_CMSG_CLOEXEC)
        if not order:
            return False
        parent, run = os.getpid(), socket.socket(fileno=descriptors.pop())
        try:
            pid = os.fork()
        except OSError as error:  # too many processes, or no memory
            _complain(descriptors[2], f"no process can be started: {error}")
            self._tell(run, DOES_NOT_START)
        else:
            if not pid:
                _become(json.loads(order), descriptors, parent)
            self._runs[pid] = run
            self._selector.register(run, EVENT_READ, pid)
        for descriptor in descriptors:
            os.close(descriptor)
        return True

    def _kill(self, pid: int) -> None:
        self._selector.unregister(self._runs[pid])
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:  # it has no group of its own yet
            os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while self._runs:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            run = self._runs.pop(pid)
            with suppress(KeyError):
                self._selector.unregister(run)
            self._tell(run, os.waitstatus_to_exitcode(status))

    def _tell(self, run: socket.socket, code: int) -> None:
        with run, suppress(ConnectionError):
            run.send(str(code).encode())


def _become(order: dict[str, Any], descriptors: list[int], parent: int) -> NoReturn:
    """This process, a fork, the program."""
    try:
        os.setsid()
        for wanted, descriptor in enumerate(descriptors):
            os.dup2(descriptor, wanted)
        os.chdir(order["folder"])
        confine(order["program"], parent=parent, cpu_s=order["cpu_s"])
        os.execv(order["program"], [order["program"], *order["arguments"]])
    except OSError as error:
        _complain(2, f"{order['program']} cannot be confined and started: {error}")
    finally:  # nothing of the fork may come back into the loop
        os._exit(DOES_NOT_START)


def _complain(descriptor: int, what: str) -> None:
    with suppress(OSError):
        os.write(descriptor, f"{what}\n".encode())


def main() -> None:
    Forkserver(socket.socket(fileno=0)).serve()
