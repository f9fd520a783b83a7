"""What a worker says of itself, as the others read it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class WorkerState(StrEnum):
    STARTING = "starting"
    DOWNLOADING = "downloading"  # also while it waits for a network that is away
    LOADING = "loading"
    FIT = "fit"
    MODELS_MISSING = "models_missing"  # and they do not come until somebody does what the reason says
    UNFIT = "unfit"

    @property
    def is_broken(self) -> bool:
        return self in (WorkerState.MODELS_MISSING, WorkerState.UNFIT)


@dataclass(frozen=True)
class Download:
    """Bytes over all models together, and the file that comes now."""

    done_bytes: int
    total_bytes: int
    what: str


@dataclass(frozen=True)
class WorkerReport:
    """What a worker says of itself; it is forgotten when it falls silent."""

    slot: str
    fit: bool
    reason: str
    device: str
    asr_model: str
    jobs_in_flight: int = 0  # counted by the store
    state: WorkerState = WorkerState.STARTING
    downloading: Download | None = None
    host: str = ""
    pid: int = 0
    lock_sha256: str = ""  # as core.burst.Stack has them, of a worker that is fit: what a burst's results are held to
    models_sha256: str = ""


def report_of(said: dict[str, Any], jobs_in_flight: int) -> WorkerReport:
    """What a worker wrote; one from before an update says neither state nor download."""
    state, download = WorkerState(said.pop("state", WorkerState.STARTING)), said.pop("downloading", None)
    return WorkerReport(**said, state=state, downloading=Download(**download) if download else None, jobs_in_flight=jobs_in_flight)
