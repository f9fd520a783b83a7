"""What an attempt at a job is wherever it runs, here or on Modal: its recording decoded, what was kept read, its failure told."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from core.errors import CallerError, EngineFailed, InputLost, InvalidMedia, OurError, OutOfMemory
from core.file_store import FileStore
from core.job import JobFailure, JobOptions, Stage
from core.job_files import check_input, read_product
from core.log import logger
from core.media import Ffmpeg, longest_s
from core.transcript import Notice
from worker.work import DIARIZATION_FAILED, Work

log = logger("worker.attempt")
Keep = Callable[[Stage, bytes], None]
Check = Callable[[], None]
Report = Callable[[Stage, float], None]
DECODED = 0.05  # share of a job's progress that decoding is worth
MOST_BROKEN = 2  # different jobs without a success between them; more say that the worker is what is broken


@dataclass(frozen=True)
class Recordings:
    """Where recordings are, and what decodes them."""

    files: FileStore
    ffmpeg: Ffmpeg


class Attempted(Protocol):
    """As much of a job as running it needs."""

    @property
    def id(self) -> str: ...
    @property
    def attempt(self) -> int: ...
    @property
    def duration_s(self) -> float: ...
    @property
    def options(self) -> JobOptions: ...
    @property
    def work_s(self) -> float: ...
    @property
    def input_key(self) -> str: ...
    @property
    def input_sha256(self) -> str: ...
    @property
    def products(self) -> Mapping[str, str]: ...
    @property
    def product_sha256(self) -> Mapping[str, str]: ...


def decoded(job: Attempted, media: Recordings, check: Callable[[], None]) -> bytes:
    """The clip out of the stored recording. Raises `InvalidMedia`, `InputLost`, and whatever `check` does."""
    options = job.options
    try:
        with media.files.local_copy(job.input_key, check) as path:
            check_input(path, job, check)
            audio = media.ffmpeg.decode(path, start_s=options.clip_start, end_s=options.clip_end, most_s=longest_s(job.work_s), check=check)
    except FileNotFoundError as error:
        raise InputLost("the recording is no longer in the file store, where it was when it was accepted: send it again") from error
    return _sound(audio)


def decoded_clip(job: Attempted, path: Path, ffmpeg: Ffmpeg, check: Callable[[], None]) -> bytes:
    """Out of a file that holds the clip and nothing else. Raises as `decoded`."""
    return _sound(ffmpeg.decode(path, most_s=longest_s(job.work_s), check=check))


def kept(job: Attempted, files: FileStore) -> dict[Stage, bytes]:
    """A product that is not there any more as it was written is made again."""
    found = {}
    for stage in job.products:
        if (content := read_product(files, job, stage)) is None:
            log.warning("stage product missing or damaged", job_id=job.id, stage=stage)
        else:
            found[Stage(stage)] = content
    return found


def work_of(
    job: Attempted, audio: bytes, products: Mapping[Stage, bytes], *, keep: Keep, report: Report, check: Callable[[], None]
) -> Work:
    """What the engine is asked. `report` hears of the whole job, of which decoding is done."""
    return Work(
        job_id=job.id,
        attempt=job.attempt,
        options=job.options,
        audio=audio,
        offset_s=job.options.clip_start or 0.0,
        duration_s=job.duration_s,
        kept=products,
        keep=keep,
        report=lambda stage, progress: report(stage, DECODED + (1 - DECODED) * progress),
        check=check,
    )


def without_speakers(job: Attempted, warnings: Iterable[Notice]) -> JobFailure | None:
    """What a job fails with whose client wants speakers or no success, when its transcript warns that they could not be told; its words
    are there all the same."""
    is_lacking = any(warning.code == DIARIZATION_FAILED for warning in warnings)
    if job.options.on_diarization_failure != "fail" or not is_lacking:
        return None
    message = f"The speakers could not be told apart, as the worker's log says under job {job.id}; the transcript has the words."
    return JobFailure(code=EngineFailed.code, message=message)


def callers_failure(error: CallerError) -> JobFailure:
    return JobFailure(code=error.code, message=str(error))


def our_failure(error: Exception, job_id: str, stage: Stage | None) -> JobFailure:
    """Generic outside: what broke is in the log under the job's id."""
    at = error.stage if isinstance(error, EngineFailed) else stage or Stage.DECODE
    if isinstance(error, OutOfMemory):
        return JobFailure(
            code=error.code, message=f"The device ran out of memory in stage {at} at the smallest batch: use a smaller model."
        )
    if isinstance(error, InputLost):
        return JobFailure(code=error.code, message=str(error))
    code = error.code if isinstance(error, OurError) else EngineFailed.code
    return JobFailure(code=code, message=f"Something broke on our side in stage {at}; the worker's log says what, under job {job_id}.")


def _sound(audio: bytes) -> bytes:
    if not audio:
        raise InvalidMedia("the recording holds no sound that can be decoded")
    return audio
