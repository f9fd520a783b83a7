"""What the stages themselves wrote of what they did (`tools.scripted_worker`): the witness that no record can contradict."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

TAKEN_BACK = ("taken back from this slot's last process", "runner lost")


@dataclass(frozen=True)
class Line:
    at: float  # seconds since the epoch
    job: str
    attempt: int
    stage: str
    event: str  # begin or end
    pid: int


def read_journal(path: Path) -> list[Line]:
    return [Line(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def attempts_begun(lines: list[Line]) -> dict[str, set[int]]:
    """Of each job."""
    begun: dict[str, set[int]] = defaultdict(set)
    for line in lines:
        begun[line.job].add(line.attempt)
    return begun


def finished_attempts(lines: list[Line]) -> dict[str, set[int]]:
    """Those whose last stage ended, of each job."""
    ended: dict[str, set[int]] = defaultdict(set)
    for line in lines:
        if (line.stage, line.event) == ("alignment", "end"):
            ended[line.job].add(line.attempt)
    return ended


@dataclass(frozen=True)
class Recovery:
    """Of one job whose worker died with it: seconds until it was taken back, and until its next attempt began; None if neither came."""

    taken_back_s: float | None
    resumed_s: float | None


def recoveries(lines: list[Line], taken_back: Sequence[tuple[str, float]], pid: int, died_at: float) -> list[Recovery]:
    """Of every job that a process had in hand when it died. `taken_back`: jobs and when, as the logs have it."""
    in_hand = {line.job for line in lines if line.pid == pid and line.at <= died_at}
    over = {line.job for line in lines if line.pid == pid and (line.stage, line.event) == ("alignment", "end")}
    return [
        Recovery(
            min((at - died_at for taken, at in taken_back if taken == job and at > died_at), default=None),
            min((line.at - died_at for line in lines if line.job == job and line.pid != pid and line.at > died_at), default=None),
        )
        for job in in_hand - over
    ]


def taken_back_in(logs: Path) -> list[tuple[str, float]]:
    """Jobs and when, from the processes' logs."""
    found = []
    for log in sorted(logs.glob("*.log")):
        for line in log.read_text(errors="replace").splitlines():
            if any(f'"event": "{event}"' in line for event in TAKEN_BACK):
                said = json.loads(line)
                found.append((said["job_id"], datetime.fromisoformat(said["timestamp"]).timestamp()))
    return found
