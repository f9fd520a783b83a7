"""Runs what may end its process in a process of its own; the end is an answer too."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 300.0  # a first import of torch from a cold disk takes half a minute


@dataclass(frozen=True)
class Answer:
    """`error` is empty when the question was answered."""

    value: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


def probe(names: Sequence[str]) -> dict[str, Answer]:
    """An answer to each name. The one that ended the process gets its death as error, those after it another process."""
    if not names:
        return {}
    output, end = _run("worker.doctor.probe", *names)
    answers = dict(_answers(output))
    unanswered = [name for name in names if name not in answers]
    if not unanswered:
        return answers
    return answers | {unanswered[0]: Answer(error=end)} | probe(unanswered[1:])


def _run(module: str, *arguments: str) -> tuple[str, str]:
    """What was printed, and how the process ended."""
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode(errors="replace"), f"the process gave no answer within {TIMEOUT_S:.0f} s"
    return done.stdout, f"{_end(done.returncode)}: {_last_words(done.stderr)}"


def _answers(output: str) -> Iterator[tuple[str, Answer]]:
    for line in output.splitlines():
        if line.startswith('{"name": '):
            told = json.loads(line)
            yield told["name"], Answer(told.get("answer", {}), told.get("error", ""))


def _end(code: int) -> str:
    return f"the process was ended by {signal.Signals(-code).name}" if code < 0 else f"the process ended with status {code}"


def _last_words(said: str) -> str:
    return next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "without a word")
