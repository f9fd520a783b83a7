"""A folder through which a test or the chaos tool says where a process is to die, and learns where it could (`tools.crash_at` obeys).

An order is a file, and taking it is its unlink: it strikes one process once, however many pass the point.
"""

import os
import re
import signal
import sys
import threading
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from core.crash_points import EVENT

# What the key of a file says of it, the first that is found in it.
KINDS = {
    "result": r"/transcript-\d+\.json$",
    "product": r"/products/\d+-",
    "fetched": r"/fetches/\d+/",
    "input": r"jobs/[0-9a-f]+/input$",
    "job": r"jobs/[0-9a-f]+$",
    "upload": r"uploads/",
    "probe": r"probes/",
    "output": r"outputs/",
}


class Blow(StrEnum):
    KILL = "kill"
    FREEZE = "freeze"  # until somebody sends SIGCONT


SIGNALS = {Blow.KILL: signal.SIGKILL, Blow.FREEZE: signal.SIGSTOP}


class Moment(NamedTuple):
    """A crash point in one of the processes, as `Moment("worker", "step:claim")`."""

    process: str
    point: str


@dataclass(frozen=True)
class Strike:
    moment: Moment
    blow: Blow
    pid: int


class CrashOrders:
    """One folder for all processes of a stack."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._passed, self._strikes = folder / "passed", folder / "strikes"
        folder.mkdir(exist_ok=True)

    def order(self, moment: Moment, blow: Blow = Blow.KILL) -> None:
        """The next process of that name that passes the point is struck there, once."""
        self._path(moment, blow).touch()

    def withdraw(self) -> None:
        """Every order that nobody has taken."""
        for path in self.folder.glob("order *"):
            path.unlink(missing_ok=True)

    def strikes(self) -> list[Strike]:
        """Oldest first."""
        lines = [line.split("\t") for line in _lines(self._strikes)]
        return [Strike(Moment(process, point), Blow(blow), int(pid)) for process, point, blow, pid in lines]

    def passed(self) -> set[Moment]:
        """Every moment that any life of any process has come to."""
        return {Moment(*line.split("\t")) for line in _lines(self._passed)}

    def obey(self, process: str) -> None:
        """From now on this process records what it passes, and dies where it is told to."""
        seen: set[str] = set()

        def hear(event: str, arguments: tuple[Any, ...]) -> None:
            if event != EVENT:
                return
            moment = Moment(process, point_of(*arguments))
            if moment.point not in seen:
                seen.add(moment.point)
                _append(self._passed, *moment)
            for blow in Blow:
                self._strike(moment, blow)

        sys.addaudithook(hear)

    def _strike(self, moment: Moment, blow: Blow) -> None:
        try:
            os.unlink(self._path(moment, blow))
        except FileNotFoundError:
            return
        _append(self._strikes, *moment, blow, str(os.getpid()))
        signal.pthread_kill(threading.get_ident(), SIGNALS[blow])  # sent to the process, this thread could go on for a moment

    def _path(self, moment: Moment, blow: Blow) -> Path:
        return self.folder / f"order {moment.process} {moment.point} {blow}"


def point_of(what: str, of: str) -> str:
    """The name of a crash point: a file's says which kind of file, not which one."""
    kind = next((kind for kind, pattern in KINDS.items() if re.search(pattern, of)), of)
    return f"{what}:{kind}"


def _append(path: Path, *words: str) -> None:
    """In one write, which many processes may do at once."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, ("\t".join(words) + "\n").encode())
    finally:
        os.close(file)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
