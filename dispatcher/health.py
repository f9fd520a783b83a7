"""`python -m dispatcher.health`: status 0 if the dispatcher's loop went round lately, as a leader or as a standby, else 1."""

import os
import sys
import tempfile
import time
from pathlib import Path

LATEST_S = 30.0  # a round with a Redis that does not answer takes 5 s, one with a slow one many of them


def main() -> int:
    fault = look(age_s(), LATEST_S)
    sys.stdout.write((fault or "healthy") + "\n")
    return 1 if fault else 0


def look(age: float | None, latest_s: float) -> str:
    """What is wrong. A Redis that is away is not: the loop goes round, and waits for it."""
    if age is None:
        return "no dispatcher runs here: `python -m dispatcher` starts it"
    return f"the loop last went round {age:.0f} s ago: see the dispatcher's log, and start it again" if age > latest_s else ""


def went_round() -> None:
    _mark().touch()


def age_s() -> float | None:
    """Since the last round; None before the first."""
    try:
        return time.time() - _mark().stat().st_mtime
    except FileNotFoundError:
        return None


def _mark() -> Path:
    """The loop touches it, and a new container has none."""
    return Path(tempfile.gettempdir()) / f"spillway-dispatcher-{os.getuid()}"


if __name__ == "__main__":
    sys.exit(main())
