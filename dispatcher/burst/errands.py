"""What a file store may take its time for, and nobody waits for: neither the loop nor the end of the process."""

import threading
from collections.abc import Callable
from queue import SimpleQueue

from core.log import logger

log = logger("dispatcher.burst")
THREADS = 2


class Errands:
    """Done in turn, as far as the process lives for it."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[tuple[Callable[[], None], str] | None] = SimpleQueue()
        for number in range(THREADS):
            threading.Thread(target=self._work_through, name=f"burst-errand-{number}", daemon=True).start()

    def send(self, act: Callable[[], None], otherwise: str) -> None:
        """`otherwise`: what it comes to when it fails."""
        self._waiting.put((act, otherwise))

    def close(self) -> None:
        for _ in range(THREADS):
            self._waiting.put(None)

    def _work_through(self) -> None:
        while errand := self._waiting.get():
            act, otherwise = errand
            try:
                act()
            except Exception as error:
                log.warning(otherwise, reason=str(error), kind=type(error).__name__)
