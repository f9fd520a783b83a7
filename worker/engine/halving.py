"""A model whose batches get smaller when the device's memory runs out, and stay so."""

from collections.abc import Callable
from typing import TypeVar

from core.errors import OutOfMemory
from core.log import logger
from worker.engine.batching import is_out_of_memory
from worker.engine.tally import Tally

log = logger("worker.halving")
Result = TypeVar("Result")


class Halving:
    """One model's on its device, for all jobs and threads: what worked for one is what the next begins with."""

    def __init__(self, name: str, batch_size: int, *, release_memory: Callable[[], None] = lambda: None) -> None:
        """`name` is the model's in errors and figures; `release_memory` is called when the device has run out of it."""
        self.batch_size = batch_size
        self.tally = Tally(name)
        self._name, self._release_memory = name, release_memory

    def run(self, items: int, forward: Callable[[slice], Result]) -> list[Result]:
        """What `forward` gives for one slice of the items after the other. Raises `OutOfMemory` if a single one is too much."""
        results: list[Result] = []
        done = 0
        while done < items:
            part = slice(done, min(done + self.batch_size, items))
            short_of_memory = self._attempt(part, forward, results)
            if short_of_memory is None:
                done = part.stop
            else:
                self._shrink(part.stop - part.start, short_of_memory)
        return results

    def _attempt(self, part: slice, forward: Callable[[slice], Result], results: list[Result]) -> Exception | None:
        """Returns the error instead of raising it, without its frames: they would hold the batch's memory during the retry."""
        try:
            with self.tally.batch(part.stop - part.start, room=self.batch_size):
                results.append(forward(part))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return error.with_traceback(None)
        return None

    def _shrink(self, tried: int, error: Exception) -> None:
        self.tally.ran_out_of_memory()
        if tried == 1:
            raise OutOfMemory(f"{self._name}: the device's memory does not hold a single item") from error
        self.batch_size = min(self.batch_size, tried // 2)
        log.warning("out of memory: smaller batches from now on", model=self._name, batch_size=self.batch_size)
        self._release_memory()
