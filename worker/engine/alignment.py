"""Word times by forced alignment with wav2vec2: the times of whisperx 3.2.0's alignment.align, in batches."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from core.transcript import Timing
from worker.engine import viterbi
from worker.engine.results import SAMPLE_RATE, Recognition, TimedSentence, TimedWord, Waveform, Window
from worker.engine.sentences import (
    LANGUAGES_WITHOUT_SPACES,
    gather,
    interpolate,
    locate,
    sentence_spans,
    sentences_from_words,
    split_words,
)
from worker.engine.wav2vec2 import Wav2Vec2

MIN_SAMPLES = 400  # one frame of wav2vec2: 25 ms at 16 kHz
BATCH_SAMPLES = 240 * SAMPLE_RATE  # eight windows of 30 s: attention then takes about 1.2 GB in a large model
CHECK_EVERY_S = 0.25

Indices = NDArray[np.intp]
Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Script:
    """A recognition with the characters of its text that the model knows."""

    recognition: Recognition
    places: Indices  # in the text, ascending
    tokens: Indices  # in the dictionary


@dataclass(frozen=True)
class Reading:
    """Times and scores (0 to 1) of a script's characters."""

    script: Script
    starts: Seconds
    ends: Seconds
    scores: NDArray[np.float64]


class ForcedAligner:
    """One loaded wav2vec2. Safe to call from several threads: the device serves one of them at a time."""

    def __init__(self, model: Wav2Vec2, language: str) -> None:
        self._model = model
        self._language = language
        self._device_lock = threading.Lock()

    @classmethod
    def load(cls, folder: Path, language: str, device: str, *, bundle: str | None = None) -> Self:
        """From a local Hugging Face folder, or from the folder that holds the checkpoint of a torchaudio bundle.

        Raises ModelMissing where files are missing; the network is never asked.
        """
        model = Wav2Vec2.from_bundle(bundle, folder, device) if bundle else Wav2Vec2.from_folder(folder, device)
        return cls(model, language)

    def sentences(
        self,
        waveform: Waveform,
        recognitions: Sequence[Recognition],
        *,
        on_progress: Callable[[float], None] = lambda _: None,
        check: Callable[[], None],
    ) -> tuple[TimedSentence, ...]:
        """In the order of the recognitions; on_progress gets 0 to 1, again and again also while other jobs have the device;
        check is called as often and may raise to stop.

        A text that cannot be aligned keeps the times it came with, or else its words are spread over its window.
        Raises OutOfMemory when one window alone is too much for the device.
        """
        scripts = [self._script(one) for one in recognitions]
        speakable = [one for one in scripts if len(one.tokens) and one.recognition.window.start * SAMPLE_RATE < len(waveform)]
        readings: dict[int, Reading] = {}
        done = 0
        for batch in _batches(speakable):
            with self._my_turn(partial(on_progress, done / len(speakable)), check):
                readings |= self._read(waveform, batch)
            done += len(batch)
        return tuple(chain.from_iterable(self._sentences(one, readings.get(id(one))) for one in scripts))

    def _script(self, recognition: Recognition) -> Script:
        text, dictionary = recognition.text, self._model.dictionary
        inside = range(len(text) - len(text.lstrip()), len(text.rstrip()))
        places = [place for place in inside if self._spoken(text[place]) in dictionary]
        tokens = [dictionary[self._spoken(text[place])] for place in places]
        return Script(recognition, np.array(places, dtype=np.intp), np.array(tokens, dtype=np.intp))

    def _spoken(self, character: str) -> str:
        """As wav2vec2's dictionaries write it: the space between words is a bar."""
        return "|" if character == " " and self._language not in LANGUAGES_WITHOUT_SPACES else character.lower()

    @contextmanager
    def _my_turn(self, goes_on: Callable[[], None], check: Callable[[], None]) -> Iterator[None]:
        check()
        while not self._device_lock.acquire(timeout=CHECK_EVERY_S):
            goes_on()
            check()
        try:
            goes_on()
            yield
        finally:
            self._device_lock.release()

    def _read(self, waveform: Waveform, batch: Sequence[Script]) -> dict[int, Reading]:
        waveforms = [_cut(waveform, one.recognition.window) for one in batch]
        emissions = self._model.emissions(waveforms, [one.tokens for one in batch])
        aligned = zip(batch, emissions, viterbi.align(emissions), strict=True)
        return {id(one): _reading(one, spans, len(emission.blank)) for one, emission, spans in aligned if spans}

    def _sentences(self, script: Script, reading: Reading | None) -> tuple[TimedSentence, ...]:
        recognition = script.recognition
        if reading is None:
            return sentences_from_words(recognition, self._language)
        words = split_words(recognition.text, self._language)
        places = locate(recognition.text, words)
        timed = [_timed(reading, word, place) for word, place in zip(words, places, strict=True)]
        return gather(recognition, interpolate(timed, recognition.window), places, _sentence_starts(reading))


def _cut(waveform: Waveform, window: Window) -> Waveform:
    samples = waveform[int(window.start * SAMPLE_RATE) : int(window.end * SAMPLE_RATE)]
    return np.pad(samples, (0, max(0, MIN_SAMPLES - len(samples))))


def _batches(scripts: Sequence[Script]) -> Iterator[list[Script]]:
    """Longest windows first, so that what is batched together needs little padding."""

    def samples(script: Script) -> float:
        return (script.recognition.window.end - script.recognition.window.start) * SAMPLE_RATE

    waiting = sorted(scripts, key=samples, reverse=True)
    while waiting:
        size = max(1, int(BATCH_SAMPLES // max(samples(waiting[0]), MIN_SAMPLES)))
        yield waiting[:size]
        waiting = waiting[size:]


def _reading(script: Script, spans: viterbi.Spans, frames: int) -> Reading:
    window = script.recognition.window
    # The window over its own frames, not the nominal 20 ms: whisperx measures so.
    frame_s = (window.end - window.start) / frames
    starts, ends = (np.round(window.start + edges * frame_s, 3) for edges in (spans.starts, spans.ends))
    return Reading(script, starts, ends, spans.scores)


def _timed(reading: Reading, word: str, place: int) -> TimedWord | str:
    """The word alone where none of its characters is in the dictionary."""
    first, after = np.searchsorted(reading.script.places, (place, place + len(word)))
    if first == after:
        return word
    score = round(float(reading.scores[first:after].mean()), 3)
    return TimedWord(word, float(reading.starts[first]), float(reading.ends[after - 1]), score, Timing.ALIGNED)


def _sentence_starts(reading: Reading) -> list[int]:
    """Where sentences begin in the text.

    whisperx joins sentences of the same start and end, and one without any time takes those of its nearest neighbour:
    a sentence of digits alone becomes part of the sentence beside it.
    """
    spans = sentence_spans(reading.script.recognition.text)
    starts, ends = map(_fill_from_nearest, _sentence_times(reading, spans))
    return [
        start
        for index, (start, _) in enumerate(spans)
        if index == 0 or starts[index] != starts[index - 1] or ends[index] != ends[index - 1]
    ]


def _sentence_times(reading: Reading, spans: Sequence[tuple[int, int]]) -> tuple[Seconds, Seconds]:
    """Per sentence, NaN where it has none. Spaces count for the start only, the one after the sentence included."""
    text, places = reading.script.recognition.text, reading.script.places
    edges = np.array([(start, end + 1) for start, end in spans], dtype=np.intp)
    visible = np.array([text[place] != " " for place in places], dtype=np.bool_)
    first, after = np.searchsorted(places, edges).T
    starts = np.where(first < after, np.append(reading.starts, np.nan)[first], np.nan)
    first, after = np.searchsorted(places[visible], edges).T
    ends = np.where(first < after, np.append(np.nan, reading.ends[visible])[after], np.nan)
    return starts, ends


def _fill_from_nearest(values: Seconds) -> Seconds:
    """NaN replaced by the nearest value, the earlier of two equally near."""
    known = np.flatnonzero(~np.isnan(values))
    if not len(known):
        return values
    distances = np.abs(np.arange(len(values))[:, None] - known)
    return np.asarray(values[known[distances.argmin(axis=1)]])
