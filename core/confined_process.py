"""Programs confined as `core/confine.py` says, each forked by a process that stays for that: `core/forkserver.py`."""

import atexit
import json
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from core.confine import DOES_NOT_START
from core.errors import OurError

# -I -S: what forks programs that meet strangers' files has nothing of our environment, and no installed package.
BEGIN = "import sys; sys.path.append(sys.argv[1]); from core.forkserver import main; main()"
ROOT = str(Path(__file__).parent.parent)
ENVIRONMENT = {"PATH": os.defpath, "LANG": "C.UTF-8"}  # the programs' as well


@dataclass
class ConfinedProcess:
    output: int  # descriptor of a pipe
    said: int
    _run: socket.socket = field(repr=False)
    code: int | None = None

    def wait(self, timeout_s: float | None = None) -> int:
        """Its exit status, as `subprocess` has it. Raises `TimeoutError`."""
        if self.code is None:
            self._run.settimeout(timeout_s)
            self.code = int(self._run.recv(64) or DOES_NOT_START)  # nothing, should the forkserver be killed, and it with that
        return self.code

    def kill(self) -> None:
        with suppress(OSError):
            self._run.shutdown(socket.SHUT_WR)


@contextmanager
def confined(program: str, arguments: Sequence[str], stdin: int, *, folder: str, cpu_s: int) -> Iterator[ConfinedProcess]:
    """What still runs at the end of the block is killed. Raises `OurError`."""
    order = json.dumps({"program": program, "arguments": arguments, "folder": folder, "cpu_s": cpu_s}).encode()
    with ExitStack() as ours:
        run, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.enter_context(run)
        with other, ExitStack() as theirs:
            output, writes_output = _pipe(ours, theirs)
            said, writes_said = _pipe(ours, theirs)
            _forkserver.order(order, [stdin, writes_output, writes_said, other.fileno()])
        process = ConfinedProcess(output, said, run)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def _pipe(ours: ExitStack, theirs: ExitStack) -> tuple[int, int]:
    reads, writes = os.pipe()
    ours.callback(os.close, reads)
    theirs.callback(os.close, writes)
    return reads, writes


class _Forkserver:
    """Of this process: begun at the first order, and anew when it has died."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._orders: socket.socket | None = None
        self._pid = 0

    def order(self, order: bytes, descriptors: list[int]) -> None:
        for _ in range(2):
            with self._lock:
                try:
                    socket.send_fds(self._running(), [order], descriptors)
                    return
                except ConnectionError:
                    self._end()
        raise OurError("the process that starts ffmpeg died twice at its start: see its message on stderr")

    def end(self) -> None:
        with self._lock:
            self._end()

    def forget(self) -> None:
        """In a fork of this process, which has to begin its own; a thread that is not in the fork may hold the lock."""
        self._lock = Lock()
        if self._orders is not None:
            self._orders.close()
            self._orders = None

    def _running(self) -> socket.socket:
        if self._orders is None:
            self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                command = [sys.executable, "-I", "-S", "-c", BEGIN, ROOT]
                actions = [(os.POSIX_SPAWN_DUP2, theirs.fileno(), 0)]
                self._pid = os.posix_spawn(sys.executable, command, ENVIRONMENT, file_actions=actions, setsid=True)
        return self._orders

    def _end(self) -> None:
        if self._orders is None:
            return
        self._orders.close()
        self._orders = None
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


_forkserver = _Forkserver()
atexit.register(_forkserver.end)
os.register_at_fork(after_in_child=_forkserver.forget)
