"""The job: what a client asks for, what becomes of it, and who may change it."""

import json
from enum import StrEnum
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from core.errors import InvalidMedia, InvalidRequest, TooLarge
from core.languages import code_of, is_language
from core.transcript import Notice

SHORTEST_CLIP_S = 0.001  # ffmpeg finds no sound in less, or takes the end for lying before the start
MOST_NESTED = 50  # Redis' own JSON reader, which the steps use, stops at 1000
ANONYMOUS = "anonymous"  # the key id of jobs sent without an API key


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


class Stage(StrEnum):
    """What a job is at. ASR and diarization run side by side; the record names the one that is behind."""

    FETCHING = "fetching"
    DECODE = "decode"
    VAD = "vad"
    ASR = "asr"
    DIARIZATION = "diarization"
    ALIGNMENT = "alignment"
    ASSIGNMENT = "assignment"
    COMMIT = "commit"


class Priority(StrEnum):
    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class JobOptions(BaseModel):
    """What a client may ask for; unknown fields are refused by name."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    language: str | None = Field(None, description="Language code such as `en`; detected if absent.")
    task: Literal["transcribe", "translate"] = Field("transcribe", description="`translate` gives English text.")
    model: str | None = Field(None, description="Whisper model; must be the one this installation runs.")
    diarize: bool = Field(True, description="Tell speakers apart.")
    num_speakers: int | None = Field(None, ge=1, le=64, description="Number of speakers, when known.")
    min_speakers: int | None = Field(None, ge=1, le=64, description="Least number of speakers.")
    max_speakers: int | None = Field(None, ge=1, le=64, description="Most speakers.")
    align: bool = Field(True, description="Time every word; off leaves coarser times.")
    initial_prompt: str | None = Field(None, max_length=4000, description="Text that tells Whisper names and style.")
    priority: Priority = Field(Priority.NORMAL, description="Which queue the job waits in.")
    local_only: bool = Field(False, description="Never run this job outside this box.")
    metadata: dict[str, JsonValue] = Field(default_factory=dict, description="Yours, handed back unchanged; at most 16,000 characters.")
    clip_start: float | None = Field(None, ge=0, allow_inf_nan=False, description="Transcribe from here, in seconds.")
    clip_end: float | None = Field(None, gt=0, allow_inf_nan=False, description="Transcribe up to here, in seconds.")
    on_diarization_failure: Literal["warn", "fail"] = Field(
        "warn", description="`warn` gives the words without speakers, `fail` fails the job."
    )

    def clip_s(self, duration_s: float) -> float:
        """How much of a recording is asked for."""
        end = min(self.clip_end or duration_s, duration_s)
        return max(0.0, end - (self.clip_start or 0.0))

    @field_validator("language")
    @classmethod
    def _known_language(cls, code: str | None) -> str | None:
        if code is None or is_language(code.lower()):
            return code and code.lower()
        meant = code_of(code)
        hint = f"did you mean {meant!r}?" if meant else "use a code that Whisper knows, such as en, de or zh, or none to have it detected"
        raise ValueError(f"unknown language {code!r}: {hint}")

    @field_validator("metadata")
    @classmethod
    def _small(cls, metadata: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if len(str(metadata)) > 16_000:
            raise ValueError("metadata is larger than 16,000 characters")
        if _depth(metadata) > MOST_NESTED:
            raise ValueError(f"metadata is nested deeper than {MOST_NESTED} levels")
        return metadata

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        low, high = self.min_speakers, self.max_speakers
        if low is not None and high is not None and low > high:
            raise ValueError("min_speakers is greater than max_speakers")
        if self.num_speakers is not None and (low or high):
            raise ValueError("num_speakers cannot be combined with min_speakers or max_speakers")
        if self.clip_start is not None and self.clip_end is not None and self.clip_start >= self.clip_end:
            raise ValueError("clip_start is not before clip_end")
        return self


def _depth(value: JsonValue) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inside), default=0)


class JobFailure(BaseModel):
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    code: str
    message: str


class NewJob(BaseModel):
    """What submit writes once and nobody changes; the rest of the record is the store's to set.

    With a `source` its recording is not there yet: the fetch adds it, once, as `Fetched`.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    id: str
    key_id: str = ANONYMOUS
    source: str | None = None
    filename: str
    duration_s: float = 0.0
    input_key: str = ""  # empty until the source was fetched
    input_bytes: int = 0
    input_sha256: str = ""
    options: JobOptions
    deliveries: tuple[dict[str, JsonValue], ...] = ()  # what its end puts into the outbox

    @property
    def work_s(self) -> float:
        """Audio seconds that the job costs: its clip, not its file."""
        return self.options.clip_s(self.duration_s)

    @property
    def fingerprint(self) -> str:
        """Equal for the same bytes, or the same source, options and deliveries: what an Idempotency-Key is held to."""
        owed = json.dumps(self.deliveries) if self.deliveries else ""
        return f"{self.source or self.input_sha256}:{self.options.model_dump_json()}{owed}"


class Fetched(BaseModel):
    """What the fetch of a source adds to the record, once."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    duration_s: float
    input_key: str
    input_bytes: int
    input_sha256: str


class Job(NewJob):
    """One record as read from Redis. Times are seconds since the epoch by Redis' clock."""

    state: JobState
    stage: Stage | None = None
    progress: float = 0.0  # 0 to 1
    attempt: int = 0  # the fencing token: raised by every claim, never reused
    losses: int = 0  # runners that died with it
    fetch: int = 0  # the fencing token of its fetch
    fetch_failures: int = 0
    failures: int = 0  # times that a stage broke on it
    owner: str = ""  # slot/boot id of the runner that holds it
    slot: str = ""  # of the runner that holds it
    runner: Literal["", "local", "modal"] = ""  # where its last attempt ran or runs; empty before the first
    burst_failures: int = 0  # times that it came back from Modal without an answer
    cancel_requested: bool = False
    seq: int  # its place in the queue, kept over hand-backs
    version: int = 0  # raised by every change, for watchers
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    products: dict[str, str] = Field(default_factory=dict)  # stage → key in the file store
    product_sha256: dict[str, str] = Field(default_factory=dict)  # stage → what its product must have
    result_key: str | None = None
    result_sha256: str | None = None
    warnings: tuple[Notice, ...] = ()
    error: JobFailure | None = None


def check_duration(duration_s: float, options: JobOptions, max_duration_s: float) -> None:
    """Raises `InvalidMedia`, `TooLarge`, `InvalidRequest` for a recording that cannot be taken."""
    if duration_s <= 0:
        raise InvalidMedia("the recording is empty: it has no audio in it")
    if duration_s > max_duration_s:
        raise TooLarge(f"the recording lasts {duration_s:.3f} s, longer than the {max_duration_s:.0f} s taken here: send it in parts")
    if options.clip_start is not None and options.clip_start >= duration_s:
        raise InvalidRequest(f"clip_start: lies behind the end of the recording, which lasts {duration_s:.1f} s", field="clip_start")
    if options.clip_s(duration_s) < min(SHORTEST_CLIP_S, duration_s):
        field = "clip_start" if options.clip_end is None else "clip_end"
        raise InvalidRequest(f"{field}: the clip is shorter than a millisecond: let it begin earlier, or end later", field=field)
