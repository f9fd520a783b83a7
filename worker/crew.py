"""Processes that live and end together: when one ends the others are stopped, and none outlives the one that started them.

One that says it is unfit is started again instead: a card that cannot be used takes no good one's work away.
"""

import ctypes
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from core.log import logger

log = logger("worker.crew")
PR_SET_PDEATHSIG = 1  # linux/prctl.h
UNFIT = 69  # exit status of one that cannot work here, and has said why for a while: EX_UNAVAILABLE (sysexits.h)


@dataclass(frozen=True)
class Roll:
    """Who runs in this container, for its health check."""

    launcher: int
    processes: tuple[int, ...]


@dataclass(frozen=True)
class _Member:
    """`place` among the environments."""

    place: int
    process: "subprocess.Popen[bytes]"


class Crew:
    """To be run by a process with one thread: it reaps every child, also those that it inherits as a container's first process."""

    def __init__(self, command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> None:
        self._command, self._environments = command, environments
        self._running: dict[int, _Member] = {}
        self._unfit: set[int] = set()  # places whose last process ended so
        self._asked_to_stop = False

    def run(self) -> int:
        """The exit status of the first that was not started again, 128 more than its number if a signal ended it."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        self._start(*range(len(self._environments)))
        status: int | None = None
        while self._running:
            pid, code = os.wait()
            if member := self._running.pop(pid, None):
                member.process.returncode = os.waitstatus_to_exitcode(code)
                if self._may_try_again(member):
                    self._start(member.place)
                elif status is None:
                    status = self._ended(member.process)
        return status or 0

    def _start(self, *places: int) -> None:
        for place in places:
            if not self._asked_to_stop:
                process = self._launched(self._environments[place])
                self._running[process.pid] = _Member(place, process)
                if self._asked_to_stop:  # while it was started: nobody else has told it
                    _end(process.pid)
        write_roll(Roll(os.getpid(), tuple(self._running)))
        log.info("worker processes started", pids=list(self._running))

    def _launched(self, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        bind = partial(_end_with, os.getpid(), ctypes.CDLL(None).prctl)
        # In a session of its own, so that a terminal's Ctrl-C comes once, by us; with one thread, Python between fork and exec is safe.
        return subprocess.Popen(self._command, env=environment, start_new_session=True, preexec_fn=bind)

    def _may_try_again(self, member: "_Member") -> bool:
        """While another may be fit: once all have ended unfit it is for the container to start afresh."""
        if self._asked_to_stop or member.process.returncode != UNFIT:
            return False
        self._unfit.add(member.place)
        return len(self._unfit) < len(self._environments)

    def _ended(self, process: "subprocess.Popen[bytes]") -> int:
        code: int = process.returncode
        if not self._asked_to_stop:
            log.error("a worker process ended: stopping the others", pid=process.pid, status=code, others=len(self._running))
            self._stop()
        return code if code >= 0 else 128 - code

    def _stop(self) -> None:
        """To each as SIGTERM, whichever signal it was; a second one goes on as a second one, which hands jobs back at once."""
        self._asked_to_stop = True
        for pid in list(self._running):
            _end(pid)


def roll_path() -> Path:
    return Path(tempfile.gettempdir()) / f"spillway-worker-{os.getuid()}.json"


def write_roll(roll: Roll) -> None:
    temporary = roll_path().with_suffix(".new")
    temporary.write_text(json.dumps(asdict(roll)))
    temporary.replace(roll_path())


def read_roll() -> Roll | None:
    """None where no launcher has started its processes."""
    try:
        said = json.loads(roll_path().read_text())
    except FileNotFoundError:
        return None
    return Roll(said["launcher"], tuple(said["processes"]))


def _end(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)


def _end_with(parent: int, prctl: Callable[[int, int], int]) -> None:
    """SIGTERM, so that jobs are handed back, when the launcher is gone without a word."""
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the kernel knew
        os._exit(1)
