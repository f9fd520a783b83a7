"""Full batches for one model, out of the items of all jobs in flight."""

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from core.errors import EngineFailed, OutOfMemory
from worker.engine.tally import Tally

Item = TypeVar("Item")
Result = TypeVar("Result")

# torch: "CUDA out of memory", "can't allocate memory"; CTranslate2: "CUDA failed with error out of memory";
# cuBLAS and cuDNN below both: "…_STATUS_ALLOC_FAILED"
OUT_OF_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: Exception) -> bool:
    """torch.cuda.OutOfMemoryError is a RuntimeError too, so that the text serves both libraries and torch is not needed."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY_TEXTS)


@dataclass(frozen=True)
class _Entry(Generic[Item, Result]):
    item: Item
    future: Future[Result] = field(default_factory=Future)


class _Lines(Generic[Item, Result]):
    """What waits: a line per job and, within it, per key. Jobs take turns; not thread-safe."""

    def __init__(self) -> None:
        self._lines: dict[str, dict[Hashable, deque[_Entry[Item, Result]]]] = {}

    def add(self, job: str, key: Hashable, entry: _Entry[Item, Result]) -> None:
        self._lines.setdefault(job, {}).setdefault(key, deque()).append(entry)

    def waiting(self) -> bool:
        return bool(self._lines)

    def ready(self) -> int:
        """How many could share the next batch."""
        key = self._next_key()
        return sum(len(lines[key]) for lines in self._lines.values() if key in lines)

    def take(self, limit: int) -> list[_Entry[Item, Result]]:
        """At most `limit` that share a key, one of each job in turn."""
        key, taken = self._next_key(), list[_Entry[Item, Result]]()
        while len(taken) < limit:
            served = [job for job, lines in self._lines.items() if key in lines][: limit - len(taken)]
            if not served:
                break
            taken += [self._pop(job, key) for job in served]
        return taken

    def drop(self, job: str) -> list[_Entry[Item, Result]]:
        return [entry for line in self._lines.pop(job, {}).values() for entry in line]

    def jobs(self) -> list[str]:
        return list(self._lines)

    def _next_key(self) -> Hashable:
        lines = next(iter(self._lines.values()), {})
        return next(iter(lines), None)

    def _pop(self, job: str, key: Hashable) -> _Entry[Item, Result]:
        """The job goes to the end of the queue of jobs."""
        lines = self._lines.pop(job)
        entry = lines[key].popleft()
        if not lines[key]:
            del lines[key]
        if lines:
            self._lines[job] = lines
        return entry


def _one_key(_: object) -> Hashable:
    return None


def _nothing() -> None:
    return None


class Batcher(Generic[Item, Result]):
    """One thread that runs `forward` on up to `batch_size` items at a time; `forward` keeps order and length.

    Items share a batch when `key` is equal. A batch that is not full waits up to `gather_delay_s`, and only while somebody
    is `feeding`. When memory runs out the batch size halves for good, `release_memory` is called, and the same items run
    again; an item that does not fit alone fails with OutOfMemory. `name` is the stage in errors.
    """

    def __init__(
        self,
        name: str,
        forward: Callable[[list[Item]], list[Result]],
        *,
        batch_size: int,
        key: Callable[[Item], Hashable] = _one_key,
        gather_delay_s: float = 0.03,
        release_memory: Callable[[], None] = _nothing,
    ) -> None:
        self.name = name
        self.batch_size = batch_size
        self.tally = Tally(name)
        self._forward = forward
        self._key = key
        self._gather_delay_s = gather_delay_s
        self._is_short_of_memory = False
        self._release_memory = release_memory
        self._lines: _Lines[Item, Result] = _Lines()
        self._changed = threading.Condition()
        self._feeders = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"batcher-{name}", daemon=True)
        self._thread.start()

    def submit(self, item: Item, *, job: str) -> Future[Result]:
        """Raises EngineFailed when closed."""
        entry: _Entry[Item, Result] = _Entry(item)
        with self._changed:
            if self._closed:
                raise self._closed_error()
            self._lines.add(job, self._key(item), entry)
            self._changed.notify_all()
        return entry.future

    @contextmanager
    def feeding(self) -> Iterator[None]:
        """While it is open more items can be expected."""
        self._count_feeders(1)
        try:
            yield
        finally:
            self._count_feeders(-1)

    def drop(self, job: str) -> None:
        """Cancels what of the job is still queued; what already runs ends as it would."""
        with self._changed:
            dropped = self._lines.drop(job)
            self._changed.notify_all()
        for entry in dropped:
            entry.future.cancel()

    def close(self) -> None:
        """Waits for the batch that runs; what is still queued fails with EngineFailed."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        left = [entry for job in self._lines.jobs() for entry in self._lines.drop(job)]
        _fail([entry for entry in left if entry.future.set_running_or_notify_cancel()], self._closed_error())

    def _count_feeders(self, change: int) -> None:
        with self._changed:
            self._feeders += change
            self._changed.notify_all()

    def _closed_error(self) -> EngineFailed:
        return EngineFailed(f"the batcher of {self.name} is closed", stage=self.name)

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._run(batch)

    def _next_batch(self) -> list[_Entry[Item, Result]] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._lines.waiting())
            self._changed.wait_for(self._need_not_wait, timeout=self._gather_delay_s)
            if self._closed:
                return None
            return [entry for entry in self._lines.take(self.batch_size) if entry.future.set_running_or_notify_cancel()]

    def _need_not_wait(self) -> bool:
        return self._closed or self._feeders == 0 or self._lines.ready() >= self.batch_size

    def _run(self, entries: list[_Entry[Item, Result]]) -> None:
        while entries:
            batch, rest = entries[: self.batch_size], entries[self.batch_size :]
            error = self._attempt(batch)
            if error is None:
                entries = rest
            elif not is_out_of_memory(error):
                _fail(batch, error)
                entries = rest
            elif len(batch) > 1:
                self.batch_size = len(batch) // 2
            else:
                _fail(batch, _too_big(self.name, error))
                entries = rest
            self._is_short_of_memory = error is not None and is_out_of_memory(error)
            if self._is_short_of_memory:
                self.tally.ran_out_of_memory()

    def _attempt(self, batch: list[_Entry[Item, Result]]) -> Exception | None:
        """Returns the error instead of raising it, without its frames: they would hold the batch's memory during the retry."""
        try:
            if self._is_short_of_memory:
                self._release_memory()  # in here: after some errors of CUDA it raises itself
            with self.tally.batch(len(batch), room=self.batch_size):
                results = self._forward([entry.item for entry in batch])
            if len(results) != len(batch):
                raise EngineFailed(f"{self.name} gave {len(results)} results for {len(batch)} items", stage=self.name)
        except Exception as error:  # the thread serves every job: whatever it is belongs to this batch's futures only
            return error.with_traceback(None) if is_out_of_memory(error) else error
        for entry, result in zip(batch, results, strict=True):
            entry.future.set_result(result)
        return None


def _fail(entries: list[_Entry[Item, Result]], error: Exception) -> None:
    for entry in entries:
        entry.future.set_exception(error)


def _too_big(name: str, cause: Exception) -> OutOfMemory:
    error = OutOfMemory(f"{name}: the device's memory does not hold a single item")
    error.__cause__ = cause
    return error
