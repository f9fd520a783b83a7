"""Places for requests that last, fewer than the threads: however many uploads and streams are open, a probe finds a thread."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from core.errors import ServiceBusy

RESERVED_THREADS = 3  # for probes, scrapes and everything else that answers at once


class Places:
    def __init__(self, count: int) -> None:
        self.count = count
        self.taken = 0
        self._lock = Lock()

    @contextmanager
    def one(self, refusal: str) -> Iterator[None]:
        """Raises `ServiceBusy` with the refusal when all are taken; waits for none, since waiting would hold a thread."""
        self._take(refusal)
        try:
            yield
        finally:
            with self._lock:
                self.taken -= 1

    def _take(self, refusal: str) -> None:
        with self._lock:
            if self.taken >= self.count:
                raise ServiceBusy(refusal)
            self.taken += 1
