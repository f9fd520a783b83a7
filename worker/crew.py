"""The processes of one container: one that ends is started again beside the others, and none outlives the one that started them.

Its successor in the slot hands its jobs back in seconds, and the others keep their models warm and their jobs. When there is no use
in another start the others are stopped, and it is for the container to start afresh.
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
from time import monotonic

from core.log import logger

log = logger("worker.crew")
PR_SET_PDEATHSIG = 1  # linux/prctl.h
UNFIT = 69  # exit status of one that cannot work here, and has said why for a while: EX_UNAVAILABLE (sysexits.h)
QUICK_DEATH_S = 120.0  # one that lived for less was never well: models take most of a minute to load on a busy box
MOST_QUICK_DEATHS = 6  # in a row: more than one poison job causes before it is set aside


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
    started_at: float

    @property
    def was_well(self) -> bool:
        return monotonic() - self.started_at >= QUICK_DEATH_S


class Crew:
    """To be run by a process with one thread: it reaps every child, also those that it inherits as a container's first process."""

    def __init__(self, command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> None:
        self._command, self._environments = command, environments
        self._running: dict[int, _Member] = {}
        self._unfit: set[int] = set()  # places whose last process ended so
        self._quick_deaths = dict.fromkeys(range(len(environments)), 0)  # by place, in a row
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
                self._running[process.pid] = _Member(place, process, monotonic())
                if self._asked_to_stop:  # while it was started: nobody else has told it
                    _end(process.pid)
        write_roll(Roll(os.getpid(), tuple(self._running)))
        log.info("worker processes started", pids=list(self._running))

    def _launched(self, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        bind = partial(_end_with, os.getpid(), ctypes.CDLL(None).prctl)
        # In a session of its own, so that a terminal's Ctrl-C comes once, by us; with one thread, Python between fork and exec is safe.
        return subprocess.Popen(self._command, env=environment, start_new_session=True, preexec_fn=bind)

    def _may_try_again(self, member: "_Member") -> bool:
        """While another may be fit, and while it does not die again and again."""
        if self._asked_to_stop:
            return False
        if member.process.returncode == UNFIT:
            self._unfit.add(member.place)
            return any(other.place not in self._unfit or other.was_well for other in self._running.values())
        self._unfit.discard(member.place)
        self._quick_deaths[member.place] = 1 if member.was_well else self._quick_deaths[member.place] + 1
        log.error("a worker process ended", pid=member.process.pid, status=member.process.returncode)
        return self._quick_deaths[member.place] < MOST_QUICK_DEATHS

    def _ended(self, process: "subprocess.Popen[bytes]") -> int:
        code: int = process.returncode
        if not self._asked_to_stop:
            log.error("no use in another start: stopping the others", pid=process.pid, status=code, others=len(self._running))
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
