"""The hierarchy of speaker embeddings, in a process of its own where it takes long: SciPy holds the GIL from its begin to its end.

For 16,200 embeddings, as three hours of talk give, that is 17 s on one core, in which no lease is renewed and no batch fed; four
recordings in a row would outlast a lease. One such process runs at a time, because it keeps every pair's distance twice.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster import hierarchy

from core.errors import OurError

Floats = NDArray[Any]  # float32 or float64

AT_ONCE = 2000  # embeddings that are linked in 0.2 s: a process of its own takes 0.5 s to begin
# Of more, pyannote links as many at random and gives the rest to the nearest cluster. It is five hours of talk, and their distances
# take 7.2 GB; those of twelve hours would take 34 GB.
MOST_LINKED = 30_000
LOOK_S = 0.25  # how often `waiting` is called
TIMEOUT_S = 3600.0  # of the slowest measured, 30,000 embeddings, many times over
PR_SET_PDEATHSIG = 1  # linux/prctl.h

# Called while a job waits for its linkage; raises to stop it. pyannote's clustering has no way to pass it on.
waiting: ContextVar[Callable[[], None]] = ContextVar("waiting", default=lambda: None)
_turn = threading.Lock()


def linkage(embeddings: Floats, method: str, metric: str) -> Floats:
    """As SciPy's. Raises `OurError` when the process of its own ended without an answer."""
    if len(embeddings) <= AT_ONCE:
        return np.asarray(hierarchy.linkage(embeddings, method=method, metric=metric))
    while not _turn.acquire(timeout=LOOK_S):
        waiting.get()()
    try:
        return _elsewhere(embeddings, method, metric)
    finally:
        _turn.release()


def _elsewhere(embeddings: Floats, method: str, metric: str) -> Floats:
    command = [sys.executable, "-m", __name__, str(os.getpid()), method, metric]
    with TemporaryFile() as question:  # and no pipe: Popen.communicate forgets after a timeout what is still to be written
        np.save(question, embeddings, allow_pickle=False)
        question.seek(0)
        with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdin=question, stdout=subprocess.PIPE) as child:
            try:
                answer = _answer(child)
            finally:
                child.kill()
    if child.returncode != 0:
        raise OurError(
            f"the clustering of {len(embeddings)} embeddings ended with status {child.returncode}; -9 is the kernel's, for lack of memory"
        )
    return np.asarray(np.load(BytesIO(answer), allow_pickle=False))


def _answer(child: "subprocess.Popen[bytes]") -> bytes:
    give_up_at = monotonic() + TIMEOUT_S
    while monotonic() < give_up_at:
        with suppress(subprocess.TimeoutExpired):
            return child.communicate(timeout=LOOK_S)[0]
        waiting.get()()
    raise OurError(f"the clustering did not end within {TIMEOUT_S:.0f} s")


def main(parent: str, method: str, metric: str) -> None:
    """From an array on the standard input to one on the standard output."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it died before the kernel knew
        sys.exit("the worker is gone")
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory ends it ends this, and not the worker with all its jobs
    embeddings = np.load(sys.stdin.buffer, allow_pickle=False)
    np.save(sys.stdout.buffer, hierarchy.linkage(embeddings, method=method, metric=metric), allow_pickle=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
