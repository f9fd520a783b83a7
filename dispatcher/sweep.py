"""Wakes workers for jobs whose wake-up got lost."""

from collections.abc import Callable

from core.figures import Figures
from core.job_store import JobStore
from core.log import logger

log = logger("dispatcher.sweep")
MOST_AT_ONCE = 32  # one full worker; the next sweep is a second away


class Sweeper:
    def __init__(self, store: JobStore, waiting: Callable[[], int], wake: Callable[[int], bool], figures: Figures) -> None:
        """`waiting` counts the wake-ups that nobody has received yet, `wake` sends that many more."""
        self._store, self._waiting, self._wake, self._figures = store, waiting, wake, figures

    def step(self) -> None:
        """Only where the broker holds fewer wake-ups than there are pending jobs. Raises `StoreUnavailable`."""
        missing = min(self._store.backlog().queued_jobs - self._waiting(), MOST_AT_ONCE)
        if missing > 0:
            log.debug("waking", times=missing)
            if self._wake(missing):
                self._figures.count("sweep_wakeups", missing)
