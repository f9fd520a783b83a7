"""A process that dies where it is told, and lives again: `python -m tools.crash_at NAME FOLDER MODULE ARGUMENT…`.

It is the real module with its real composition root. Its imports are done once and every life is a fork, which begins within tenths
of a second: so a matrix of a hundred kills fits into a test.
"""

import argparse
import ctypes
import os
import runpy
import signal
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from tools.crash_orders import CrashOrders
from tools.supervisor import Program

PR_SET_PDEATHSIG = 1  # linux/prctl.h
AGAIN_AFTER_S = 0.1  # a life that cannot begin must not be tried a thousand times a second
# What each program imports, among it what its libraries import late.
IMPORTED = {
    "gunicorn": ("gunicorn.app.wsgiapp", "gunicorn.workers.gthread", "service.wsgi"),
    "tools.scripted_worker": ("worker.serving", "celery.apps.worker", "celery.concurrency.thread", "kombu.transport.redis"),
    "dispatcher": ("dispatcher.delivering", "dispatcher.fetching", "dispatcher.gs_fetch", "dispatcher.webhooks", "kombu.transport.redis"),
}
BOTH = {signal.SIGTERM, signal.SIGINT}


def killable(program: Program, orders: CrashOrders) -> Program:
    """The same program, which dies where the orders for its name say. Its command is `python -m MODULE ARGUMENT…`."""
    python, option, *rest = program.command
    return replace(program, command=(python, option, "tools.crash_at", program.name, orders.folder, *rest))


class Lives:
    """One after another; the parent does nothing but begin them, and pass on that they are to end."""

    def __init__(self) -> None:
        self._child, self._is_stopping = 0, False

    def begin(self) -> None:
        """Returns in each child."""
        for number in BOTH:
            signal.signal(number, lambda *_: self._stop())
        while not self._is_stopping:
            parent = os.getpid()
            signal.pthread_sigmask(signal.SIG_BLOCK, BOTH)
            self._child = os.fork()
            if self._child == 0:
                return _be_born(parent)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, BOTH)
            os.waitpid(self._child, 0)
            time.sleep(AGAIN_AFTER_S)
        sys.exit(0)

    def _stop(self) -> None:
        self._is_stopping = True
        os.kill(self._child, signal.SIGTERM)


def _be_born(parent: int) -> None:
    for number in BOTH:
        signal.signal(number, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel knew
        os._exit(1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, BOTH)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.crash_at", description="A process that dies where it is told.")
    parser.add_argument("process", help="its name in the orders")
    parser.add_argument("folder", type=Path, help="where the orders are")
    parser.add_argument("module", choices=IMPORTED)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    for name in IMPORTED[given.module]:
        import_module(name)
    Lives().begin()
    CrashOrders(given.folder).obey(given.process)
    sys.argv = [given.module, *given.arguments]
    runpy.run_module(given.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
