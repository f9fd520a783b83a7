"""How full a model's batches were, counted for monitoring."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter


class Tally:
    """One model's, since the process began; thread-safe."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(("batches", "batch_windows", "batch_room", "batch_ms", "out_of_memory"), 0)

    @contextmanager
    def batch(self, windows: int, *, room: int) -> Iterator[None]:
        """Around a batch of `windows` where `room` would have fitted; one that raises is not counted."""
        begun = perf_counter()
        yield
        self._add(batches=1, batch_windows=windows, batch_room=max(room, windows), batch_ms=round(1000 * (perf_counter() - begun)))

    def ran_out_of_memory(self) -> None:
        self._add(out_of_memory=1)

    def counts(self) -> dict[str, int]:
        """By names of the totals: `batches:asr` and so on."""
        with self._lock:
            return {f"{name}:{self._model}": count for name, count in self._counts.items()}

    def _add(self, **counts: int) -> None:
        with self._lock:
            for name, count in counts.items():
                self._counts[name] += count
