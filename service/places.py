"""Places for requests that last, fewer than the threads: however many uploads and streams are open, a probe finds a thread."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from core.errors import ServiceBusy, TooManyOpen

RESERVED_THREADS = 3  # for probes, scrapes and everything else that answers at once


class Places:
    """Between API keys they are shared: one key holds at most half of them, so that no other finds them all taken by it."""

    def __init__(self, count: int, *, shared: bool) -> None:
        self.count, self._most_of_key = count, max(1, count // 2) if shared else count
        self._taken: Counter[str] = Counter()
        self._lock = Lock()

    @property
    def taken(self) -> int:
        with self._lock:
            return self._taken.total()

    @contextmanager
    def one(self, key_id: str, refusal: str) -> Iterator[None]:
        """Raises `ServiceBusy` when all are taken, `TooManyOpen` when the key has its share, both with the refusal.

        Waits for none, since waiting would hold a thread.
        """
        self._take(key_id, refusal)
        try:
            yield
        finally:
            self._give_back(key_id)

    def _take(self, key_id: str, refusal: str) -> None:
        with self._lock:
            if self._taken.total() >= self.count:
                raise ServiceBusy(refusal)
            if self._taken[key_id] >= self._most_of_key:
                raise TooManyOpen(f"for one API key, {refusal}")
            self._taken[key_id] += 1

    def _give_back(self, key_id: str) -> None:
        with self._lock:
            self._taken[key_id] -= 1
            if not self._taken[key_id]:
                del self._taken[key_id]
