"""The canonical transcript: what the engine makes, the file store keeps, and every format is rendered from.

Times are seconds from the start of the audio; `start <= end`, segments and words non-decreasing, all within `duration_s`.
"""

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA: Literal["spillway.transcript.v1"] = "spillway.transcript.v1"


class Value(BaseModel):
    """An immutable value; unknown fields are refused, and nan, which JSON would make null and no reader takes back."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)


class Timing(StrEnum):
    """Where a word's times come from, best first."""

    ALIGNED = "aligned"  # forced alignment with wav2vec2
    ATTENTION = "attention"  # Whisper's own cross-attention
    INTERPOLATED = "interpolated"  # between its neighbours


class Word(Value):
    word: str
    start: float
    end: float
    score: float | None  # 0 to 1: mean probability of its characters or tokens; None when interpolated
    speaker: str | None
    timing: Timing


class Segment(Value):
    """A sentence or less, of one speaker. The log-probability figures are those of the window it was recognized in."""

    id: int
    start: float
    end: float
    text: str
    speaker: str | None
    avg_logprob: float  # natural logarithm, mean over tokens
    no_speech_prob: float
    compression_ratio: float
    words: tuple[Word, ...]


class Turn(Value):
    start: float
    end: float
    speaker: str


class Speaker(Value):
    label: str
    total_s: float


class Notice(Value):
    """A poorer result says so: `code` for machines, `message` for people."""

    code: str
    message: str


class Models(Value):
    asr: str
    alignment: str | None
    segmentation: str | None
    embedding: str | None


class Run(Value):
    runner: Literal["local", "modal"]
    attempt: int
    device: str
    stages_s: dict[str, float]
    real_time_factor: float  # audio seconds per second of run, higher is faster


class Transcript(Value):
    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)

    schema_name: Literal["spillway.transcript.v1"] = Field(default=SCHEMA, alias="schema")
    language: str
    language_probability: float | None  # None when the client named the language
    duration_s: float
    segments: tuple[Segment, ...]
    turns: tuple[Turn, ...]
    speakers: tuple[Speaker, ...]
    warnings: tuple[Notice, ...]
    models: Models
    run: Run

    @property
    def text(self) -> str:
        return " ".join(segment.text.strip() for segment in self.segments)
