"""Tells Redis what the engine has counted, so that one scrape of the service shows it: this process listens on no port."""

import threading
from collections.abc import Callable

from core.errors import StoreUnavailable
from core.figures import Figures, WorkerFigures
from core.job_store import Runner
from core.log import logger

log = logger("worker.reporter")


class Reporter:
    """On a thread of its own: the GPU's driver may keep whoever asks for its memory waiting, and leases must not wait."""

    def __init__(self, figures: Figures, runner: Runner, read: Callable[[], WorkerFigures], *, period_s: float) -> None:
        self._figures, self._runner, self._read, self._period_s = figures, runner, read, period_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_reporting, name="reporter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def report(self) -> None:
        """What got lost with a Redis that is away is in the next report."""
        try:
            self._figures.report(self._runner, self._read())
        except StoreUnavailable as error:
            log.warning("figures not reported", reason=str(error))

    def _keep_reporting(self) -> None:
        while not self._stop.wait(self._period_s):
            self.report()
