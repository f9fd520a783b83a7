"""Child processes that are started together, started again when they end, and stopped together: none outlives us, however we end."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parent.parent
BOUND_EXEC = Path(__file__).with_name("bound_exec.py")
POLL_S = 0.05
QUICK_DEATH_S = 120.0  # a process that lived for less was never well: a worker needs most of a minute to load its models on a busy box

Say = Callable[[str], None]


@dataclass(frozen=True)
class Program:
    name: str
    command: tuple[str | Path, ...]
    folder: Path = ROOT


@dataclass(frozen=True)
class Patience:
    """How many quick deaths in a row are too many, and how long a stop may take before it is SIGKILL's."""

    first_deaths: int = 2  # before all is well for the first time: what cannot start should say so soon
    quick_deaths: int = 6  # afterwards: more than one poison job can cause before it is set aside
    stop_s: float = 10.0
    longest_pause_s: float = 10.0  # before one that ends again and again is started once more


USUAL_PATIENCE = Patience()


class Child:
    """One program in a session of its own, with its log; all calls come from one thread, whose end is also the child's."""

    def __init__(self, program: Program, environment: Mapping[str, str], log: Path) -> None:
        self.program = program
        self.log = log
        self.starts_at = 0.0
        self.quick_deaths = 0
        self._environment = environment
        self._started_at = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        command = [sys.executable, "-I", "-S", BOUND_EXEC, str(os.getpid()), *self.program.command]
        with self.log.open("ab") as log:
            place: dict[str, Any] = {"cwd": self.program.folder, "env": self._environment, "start_new_session": True}
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **place)
        self._started_at = time.monotonic()

    def has_ended(self) -> bool:
        """Leaves the exit status unread, so that the process id, and with it the group's, stays ours until `bury`."""
        return self.pid is not None and os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def bury(self, longest_pause_s: float) -> str:
        """Ends what the process left behind in its group; how it ended."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        self._process = None
        self.quick_deaths = self.quick_deaths + 1 if time.monotonic() - self._started_at < QUICK_DEATH_S else 1
        self.starts_at = time.monotonic() + min(0.25 * 2**self.quick_deaths, longest_pause_s)
        return f"exit status {code}" if code >= 0 else signal.Signals(-code).name

    def terminate(self) -> None:
        if self._process:
            os.kill(self._process.pid, signal.SIGTERM)  # the leader alone: it knows how to end its own

    def kill(self) -> None:
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)


class Supervisor:
    """A context: inside it the programs run. One thread starts, watches and stops them, since a child ends with the thread that made it."""

    def __init__(self, programs: Sequence[Program], environment: Mapping[str, str], log_dir: Path, *, say: Say, patience: Patience) -> None:
        self._children = [Child(program, environment, log_dir / f"{program.name}.log") for program in programs]
        self._say = say
        self._patience = patience
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._is_settled = False
        self.failure: str | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def pids(self) -> dict[str, int | None]:
        """By name; None for one that is between two lives."""
        return {child.program.name: child.pid for child in self._children}

    def settle(self) -> None:
        """All is well for the first time."""
        self._is_settled = True

    def _run(self) -> None:
        try:
            while not self._stop.wait(POLL_S) and not self.failure:
                for child in self._children:
                    self._tend(child)
        except OSError as error:  # no process to be had, or the logs' folder is gone
            self.failure = f"a process could not be started: {error}"
        finally:
            self._stop_all()

    def _tend(self, child: Child) -> None:
        if child.pid is None and time.monotonic() >= child.starts_at:
            child.start()
        elif child.has_ended():
            end = child.bury(self._patience.longest_pause_s)
            if child.quick_deaths >= (self._patience.quick_deaths if self._is_settled else self._patience.first_deaths):
                self.failure = (
                    f"{child.program.name} ended {child.quick_deaths} times in a row, at last with {end}\n{last_lines(child.log)}"
                )
            else:
                self._say(f"{child.program.name} ended with {end}: starting it again")

    def _stop_all(self) -> None:
        for child in self._children:
            child.terminate()
        deadline = time.monotonic() + self._patience.stop_s
        while any(child.pid and not child.has_ended() for child in self._children) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        for child in self._children:
            if child.pid:
                if not child.has_ended():
                    self._say(f"{child.program.name} did not stop within {self._patience.stop_s:.0f} s: killing it")
                child.kill()
                child.bury(0.0)


def last_lines(log: Path, count: int = 8) -> str:
    """The end of a log, under its path."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join([f"  {log}:", *(f"  | {line}" for line in lines[-count:] or ["(empty)"])])
