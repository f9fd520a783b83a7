"""What goes wrong, drawn by a seed: processes killed and frozen, Redis killed and frozen, the disk full."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tools.local_stack import LocalStack

BETWEEN_S = (0.8, 2.4)
FULL_S = 4.0
REDIS_PAUSE_S = (1.0, 6.0)
TMPFS_BYTES = 256 * 1024**2
WORKERS = ("worker", "second-worker")


@dataclass(frozen=True)
class Fault:
    kind: str
    what: str  # the process that it befell, if one
    pid: int
    at: float  # seconds since the epoch, as in the journal


class Faults:
    """A context: inside it things break, one after another, until it is left. `befallen` tells of each."""

    def __init__(self, stack: LocalStack, random: Random, *, lease_s: float, disk: Path | None) -> None:
        """`disk`: a folder on a small volume of its own, None where none could be made."""
        self.befallen: list[Fault] = []
        self._stack, self._random, self._lease_s, self._disk = stack, random, lease_s, disk
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faults")
        kinds = [kind for kind, weight in self._weights().items() if weight]
        self._random.shuffle(kinds)
        self._first = kinds  # every kind befalls even a short run

    def __enter__(self) -> "Faults":
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stop.set()
        self._thread.join()

    def counts(self) -> Counter[str]:
        return Counter(fault.kind for fault in self.befallen)

    def have_all_been(self) -> bool:
        return not self._first

    def _weights(self) -> Mapping[str, int]:
        return {
            "kill worker": 10, "kill dispatcher": 5, "kill service": 4, "stop worker": 4, "freeze worker": 2, "freeze dispatcher": 1,
            "kill redis": 2, "freeze redis": 2, "disk full": 1 if self._disk else 0,
        }  # fmt: skip

    def _run(self) -> None:
        weights = self._weights()
        while not self._stop.wait(self._random.uniform(*BETWEEN_S)):
            kind = self._first.pop() if self._first else self._random.choices([*weights], [*weights.values()])[0]
            with suppress(ProcessLookupError):  # it had just ended by itself
                self._befall(kind)

    def _befall(self, kind: str) -> None:
        if kind == "disk full":
            assert self._disk is not None
            self._note(kind, "", 0)
            with full(self._disk):
                self._stop.wait(FULL_S)
            return
        verb, name = kind.split()
        name = self._random.choice(WORKERS) if name == "worker" else name
        pid = self._stack.pid(name)
        if pid is not None:
            self._note(kind, name, pid)
            self._act(verb, name, pid)

    def _note(self, kind: str, what: str, pid: int) -> None:
        self.befallen.append(Fault(kind, what, pid, time.time()))

    def _act(self, verb: str, name: str, pid: int) -> None:
        if verb == "kill":
            os.killpg(pid, signal.SIGKILL)
        elif verb == "stop":
            os.kill(pid, signal.SIGTERM)
        else:
            self._freeze(pid, self._random.uniform(*REDIS_PAUSE_S) if name == "redis" else 1.5 * self._lease_s)

    def _freeze(self, pid: int, seconds: float) -> None:
        """In its own time: the others go on breaking."""
        os.killpg(pid, signal.SIGSTOP)

        def thaw() -> None:
            self._stop.wait(seconds)
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGCONT)

        threading.Thread(target=thaw, name="thaw").start()


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """Not a byte is left on its volume."""
    ballast = folder / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file:
            with suppress(OSError):
                while True:
                    file.write(bytes(1024**2))
            with suppress(OSError):
                while True:
                    file.write(bytes(512))
        yield
    finally:
        ballast.unlink(missing_ok=True)


@contextmanager
def small_volume(folder: Path, say: Callable[[str], None]) -> Iterator[Path | None]:
    """A volume of its own at `folder`; None, and why, where we may not mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, check=False) if mount and os.geteuid() == 0 else None
    if made is None or made.returncode:
        say(f"no full disk in this run: a small volume cannot be mounted here ({made.stderr.strip() if made else 'not root'})")
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)
