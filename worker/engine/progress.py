"""One figure out of stages that run side by side."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from core.job import Stage

# Shares of a job's time; diarization and ASR overlap, so this orders and smooths the bar and predicts nothing.
SHARES = {Stage.VAD: 0.05, Stage.ASR: 0.50, Stage.DIARIZATION: 0.30, Stage.ALIGNMENT: 0.13, Stage.ASSIGNMENT: 0.02}


class Progress:
    """Thread-safe. Reports the earliest stage that is under way and not done."""

    def __init__(self, report: Callable[[Stage, float], None]) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._done = dict.fromkeys(SHARES, 0.0)
        self._begun: set[Stage] = set()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[Callable[[float], None]]:
        """Gives a function that takes the stage's own progress, 0 to 1; notes how long the stage took."""
        begun = perf_counter()
        self._update(stage, 0.0)
        yield lambda done: self._update(stage, done)
        self._update(stage, 1.0)
        self.seconds[stage.value] = round(perf_counter() - begun, 3)

    def _update(self, stage: Stage, done: float) -> None:
        with self._lock:
            self._begun.add(stage)
            self._done[stage] = max(self._done[stage], min(done, 1.0))
            behind = next((one for one in SHARES if one in self._begun and self._done[one] < 1.0), stage)
            self._report(behind, sum(SHARES[one] * self._done[one] for one in SHARES))
