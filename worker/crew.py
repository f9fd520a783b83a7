"""Processes that live and end together: when one ends the others are stopped, and none outlives the one that started them."""

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


@dataclass(frozen=True)
class Roll:
    """Who runs in this container, for its health check."""

    launcher: int
    processes: tuple[int, ...]


class Crew:
    """To be run by a process with one thread: it reaps every child, also those that it inherits as a container's first process."""

    def __init__(self, command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> None:
        self._command, self._environments = command, environments
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._asked_to_stop = False

    def run(self) -> int:
        """The exit status of the first that ended, 128 more than its number if a signal ended it."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        for environment in self._environments:
            if not self._asked_to_stop:
                self._start(environment)
        write_roll(Roll(os.getpid(), tuple(self._running)))
        log.info("worker processes started", pids=list(self._running))
        status: int | None = None
        while self._running:
            pid, code = os.wait()
            if process := self._running.pop(pid, None):
                process.returncode = os.waitstatus_to_exitcode(code)
                status = self._ended(process) if status is None else status
        return status or 0

    def _start(self, environment: Mapping[str, str]) -> None:
        bind = partial(_end_with, os.getpid(), ctypes.CDLL(None).prctl)
        # In a session of its own, so that a terminal's Ctrl-C comes once, by us; with one thread, Python between fork and exec is safe.
        process = subprocess.Popen(self._command, env=environment, start_new_session=True, preexec_fn=bind)
        self._running[process.pid] = process

    def _ended(self, process: "subprocess.Popen[bytes]") -> int:
        code: int = process.returncode
        if not self._asked_to_stop:
            log.error("a worker process ended: stopping the others", pid=process.pid, status=code, others=len(self._running))
            self._stop()
        return code if code >= 0 else 128 - code

    def _stop(self) -> None:
        """To each as SIGTERM, whichever signal it was; a second one goes on as a second one, which hands jobs back at once."""
        self._asked_to_stop = True
        for process in list(self._running.values()):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)


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


def _end_with(parent: int, prctl: Callable[[int, int], int]) -> None:
    """SIGTERM, so that jobs are handed back, when the launcher is gone without a word."""
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the kernel knew
        os._exit(1)
