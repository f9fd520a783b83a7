"""What is measured of a queue, and how its jobs' own journal tells of them."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Measured:
    """Of one queue, by what is shown of it."""

    per_second: dict[str, float] = field(default_factory=dict)
    times_s: dict[str, Sequence[float]] = field(default_factory=dict)
    counts: dict[str, str] = field(default_factory=dict)


class Journal:
    """The stages append to it: job, event, at."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self.path = path

    def ended(self) -> set[str]:
        """Ours have two stages, and are done with the second."""
        return {str(line["job"]) for line in self._lines() if line["event"] == "end" and line.get("stage") != "asr"}

    def has_begun(self, jobs: set[str]) -> bool:
        return any(line["job"] in jobs for line in self._lines())

    def begun_at(self, job: str) -> float:
        return next(float(line["at"]) for line in self._lines() if (line["job"], line["event"]) == (job, "begin"))

    def _lines(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]


def wait_until(condition: Callable[[], bool], *, seconds: float) -> bool:
    """Whether it came true in that time."""
    end = time.monotonic() + seconds
    while not (is_so := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    return is_so
