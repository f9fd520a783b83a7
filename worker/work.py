"""What the runner asks of the engine, in types that need no ML stack."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from core.job import JobOptions, Stage
from core.transcript import Transcript

DIARIZATION_FAILED = "diarization_failed"  # the warning of a transcript whose speakers could not be told apart


@dataclass(frozen=True)
class Work:
    """One attempt at one job."""

    job_id: str
    attempt: int
    options: JobOptions
    audio: bytes  # float32 little-endian, mono, 16 kHz: the clip, not the file
    offset_s: float  # where the clip begins in the file
    duration_s: float  # of the file
    kept: Mapping[Stage, bytes]  # products of stages that an earlier attempt finished
    keep: Callable[[Stage, bytes], None]
    report: Callable[[Stage, float], None]  # stage, progress of the whole job from 0 to 1
    check: Callable[[], None]  # raises LeaseLost or JobCancelled when the work is to be dropped


Transcribe = Callable[[Work], Transcript]
