"""Places for requests that last, fewer than the threads: however many uploads and streams are open, a probe finds a thread."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore

from core.errors import ServiceBusy

RESERVED_THREADS = 3  # for probes, scrapes and everything else that answers at once


class Places:
    def __init__(self, count: int) -> None:
        self._free = BoundedSemaphore(count)

    @contextmanager
    def one(self, refusal: str) -> Iterator[None]:
        """Raises `ServiceBusy` with the refusal when all are taken; waits for none, since waiting would hold a thread."""
        if not self._free.acquire(blocking=False):
            raise ServiceBusy(refusal)
        try:
            yield
        finally:
            self._free.release()
