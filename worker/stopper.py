"""How the worker ends: Celery's warm shutdown would only join the threads, so a handler of our own replaces its."""

import os
import signal
import threading
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

from core.log import logger
from worker.leases import Held, Leases
from worker.runner import JobRunner

log = logger("worker.stopper")
LOOK_S = 0.05
DOUBT = 1.5  # a job's progress only says roughly how long it still takes


class Stopper:
    """On the first SIGTERM no new jobs; what can end within the grace period may end, what cannot is handed back as soon as that is
    seen, then the process is gone. A second signal hands back at once."""

    def __init__(self, runner: JobRunner, leases: Leases, grace_s: float, end: Callable[[int], Any] = os._exit) -> None:
        self._runner, self._leases, self._grace_s, self._end = runner, leases, grace_s, end
        self._lock = threading.Lock()

    def install(self, **_: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())

    def stop(self, status: int = 0) -> None:
        """Returns at once; a thread does it."""
        if not self._lock.acquire(blocking=False):
            self._grace_s = 0.0
            return
        threading.Thread(target=self._stop, args=(status,), name="stop").start()

    def _stop(self, status: int) -> None:
        try:
            log.info("stopping", jobs_in_flight=len(self._leases.in_flight()), grace_s=self._grace_s)
            self._runner.stop_claiming()
            self._wait(monotonic())
            self._runner.release_all()
        finally:
            self._end(status)

    def _wait(self, begun: float) -> None:
        """Until nothing is in flight that is still ours and may end in time."""
        released: set[Held] = set()
        while waiting := set(self._leases.in_flight()) - released:
            left_s = begun + self._grace_s - monotonic()
            if left_s <= 0:
                return
            hopeless = {held for held in waiting if held.remaining_s() > DOUBT * left_s}
            if self._runner.release(hopeless):
                released |= hopeless
            sleep(LOOK_S)
