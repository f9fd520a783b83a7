"""Ends a worker that hears no wake-ups: alive and well in every other way, it would never take a job again."""

import threading
from collections.abc import Callable

from core.errors import StoreUnavailable

DEAF_AFTER = 5  # looks in a row
TIME_TO_SUBSCRIBE = 10  # looks more that it has after its start, and after Redis was away


class Hearing:
    """Looks once per sweep. Nobody is deaf who tried to claim: what does not fit or must run alone is refused there, not unheard."""

    def __init__(self, tries: Callable[[], int | None], is_called: Callable[[], bool], give_up: Callable[[str], None]) -> None:
        """`tries`: how often this worker has tried to claim, None while it has no reason to. `is_called`: whether jobs are pending
        and wake-ups wait for somebody to hear them; it may raise `StoreUnavailable`."""
        self._tries, self._is_called, self._give_up = tries, is_called, give_up
        self._tried: int | None = None
        self._unheard = -TIME_TO_SUBSCRIBE

    def start(self, *, period_s: float) -> None:
        threading.Thread(target=self._keep_looking, args=(period_s,), name="hearing", daemon=True).start()

    def look(self) -> bool:
        """Whether it is deaf."""
        before, self._tried = self._tried, self._tries()
        try:
            is_unheard = self._tried is not None and self._tried == before and self._is_called()
        except StoreUnavailable:
            self._unheard = -TIME_TO_SUBSCRIBE
            return False
        self._unheard = self._unheard + 1 if is_unheard else min(self._unheard, 0)
        return self._unheard >= DEAF_AFTER

    def _keep_looking(self, period_s: float) -> None:
        pause = threading.Event()
        while not self.look():
            pause.wait(period_s)
        self._give_up("it was idle while jobs were pending and did not hear their wake-ups")
