"""What the engine's parts hand to one another. Times are seconds from the start of the waveform that the engine was given."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.transcript import Timing

SAMPLE_RATE = 16_000  # Hz, of every waveform in the engine

Waveform = NDArray[np.float32]  # shape = (samples,), mono, -1 to 1, 16 kHz


@dataclass(frozen=True)
class Window:
    """At most 30 s of the waveform that holds speech, as voice activity detection cut it."""

    start: float
    end: float


@dataclass(frozen=True)
class TimedWord:
    """A word with its punctuation, no surrounding space."""

    text: str
    start: float
    end: float
    score: float | None  # 0 to 1; None when interpolated
    timing: Timing


@dataclass(frozen=True)
class Recognition:
    """What Whisper heard in one window."""

    window: Window
    text: str  # as decoded: may begin with a space
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    words: tuple[TimedWord, ...]  # from cross-attention; empty where forced alignment was to give the times
    temperature: float = 0.0  # above 0: beam search ran into a loop, and this was sampled instead


@dataclass(frozen=True)
class Language:
    code: str
    probability: float | None  # None when it was named, not detected


@dataclass(frozen=True)
class TimedSentence:
    """A sentence of one window with its words timed, before it is cut at changes of speaker."""

    text: str
    words: tuple[TimedWord, ...]  # never empty
    recognition: Recognition


@dataclass(frozen=True)
class SpeakerTurn:
    start: float
    end: float
    speaker: str  # SPEAKER_00, SPEAKER_01, … in order of first appearance
