"""Puts the characters of many texts on the frames of their audio at once: whisperx 3.2.0's trellis, vectorised.

A text's characters are passed in order, each entered once by its own token; every other frame counts as blank. Two
traits of whisperx are kept, since with them the times are equal to its times: the time before the first character and
the score of the frames after a character's first one are taken from entry 0 of the dictionary, whatever the blank is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.intp]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Emission:
    """Natural log-probabilities of one text's characters over the frames of its audio."""

    tokens: Floats  # shape = (frames, characters)
    blank: Floats  # shape = (frames,)
    first: Floats  # shape = (frames,), entry 0 of the dictionary


@dataclass(frozen=True)
class Spans:
    """Character k has the frames from starts[k] up to, not including, ends[k]; at least one."""

    starts: Indices
    ends: Indices
    scores: NDArray[np.float64]  # mean probability over its frames, 0 to 1


@dataclass(frozen=True)
class Batch:
    """Emissions padded with zeros to the longest; frames come first, because the passes walk over them."""

    tokens: Floats  # shape = (frames, items, characters)
    blank: Floats  # shape = (frames, items)
    outside: Floats  # shape = (frames + 1, items): the score of not having begun; infinite where it is too late to begin
    frames: Indices  # shape = (items,)
    characters: Indices  # shape = (items,)


def align(emissions: Sequence[Emission]) -> list[Spans | None]:
    """One answer per emission, in order; None where there are no characters, or more than frames."""
    fitting = [index for index, one in enumerate(emissions) if 0 < one.tokens.shape[1] <= one.tokens.shape[0]]
    answers: list[Spans | None] = [None] * len(emissions)
    if fitting:
        chosen = [emissions[index] for index in fitting]
        for index, spans in zip(fitting, _align_fitting(chosen), strict=True):
            answers[index] = spans
    return answers


def _align_fitting(emissions: list[Emission]) -> list[Spans | None]:
    batch = _pad(emissions)
    entered, final = _forward(batch)
    last_frames = _last_frames(final, batch.frames)
    entries, complete = _backward(entered, batch.characters, last_frames)
    return [
        _spans(one, np.flatnonzero(entries[:, item]), int(last_frames[item])) if complete[item] else None
        for item, one in enumerate(emissions)
    ]


def _pad(emissions: list[Emission]) -> Batch:
    frames = np.array([one.tokens.shape[0] for one in emissions], dtype=np.intp)
    characters = np.array([one.tokens.shape[1] for one in emissions], dtype=np.intp)
    tokens = np.zeros((frames.max(), len(emissions), characters.max()), dtype=np.float32)
    blank = np.zeros((frames.max(), len(emissions)), dtype=np.float32)
    outside = np.full((frames.max() + 1, len(emissions)), np.inf, dtype=np.float32)
    for item, one in enumerate(emissions):
        tokens[: frames[item], item, : characters[item]] = one.tokens
        blank[: frames[item], item] = one.blank
        begin_by = frames[item] + 1 - characters[item]  # later, and the characters no longer fit
        outside[:begin_by, item] = _running_sum(one.first)[:begin_by]
    return Batch(tokens, blank, outside, frames, characters)


def _running_sum(log_probs: Floats) -> Floats:
    # Summed in double precision and then rounded, as torch.cumsum does on the CPU.
    return np.concatenate([[0.0], np.cumsum(log_probs, dtype=np.float64)]).astype(np.float32)


def _forward(batch: Batch) -> tuple[Flags, Floats]:
    """Whether each character was best reached by entering it, (frames, items, characters), and the score of having
    reached the last one, (frames + 1, items)."""
    frames, items, characters = batch.tokens.shape
    entered = np.empty((frames, items, characters), dtype=np.bool_)
    final = np.full((frames + 1, items), -np.inf, dtype=np.float32)
    best = np.full((items, characters + 1), -np.inf, dtype=np.float32)
    rows = np.arange(items)
    for frame in range(frames):
        best[:, 0] = batch.outside[frame]
        stay = best[:, 1:] + batch.blank[frame, :, None]
        enter = best[:, :-1] + batch.tokens[frame]
        np.greater(enter, stay, out=entered[frame])
        np.maximum(enter, stay, out=best[:, 1:])
        final[frame + 1] = best[rows, batch.characters]
    return entered, final


def _last_frames(final: Floats, frames: Indices) -> Indices:
    """How many frames each text takes up: the text may end before the audio does."""
    padding = np.arange(final.shape[0])[:, None] > frames
    return np.asarray(np.where(padding, -np.inf, final).argmax(axis=0), dtype=np.intp)


def _backward(entered: Flags, characters: Indices, last_frames: Indices) -> tuple[Flags, Flags]:
    """The frames at which a character is entered on the best path, (frames, items), and whether the path is whole."""
    frames, items, _ = entered.shape
    entries = np.zeros((frames, items), dtype=np.bool_)
    rows = np.arange(items)
    current = characters.copy()
    for frame in range(frames - 1, -1, -1):
        walking = (current > 0) & (frame < last_frames)
        entries[frame] = walking & entered[frame, rows, current - 1]
        current -= entries[frame]
    return entries, current == 0


def _spans(emission: Emission, starts: Indices, last_frame: int) -> Spans:
    ends = np.append(starts[1:], last_frame)
    probabilities = np.exp(emission.first[:last_frame].astype(np.float64))
    probabilities[starts] = np.exp(emission.tokens[starts, np.arange(len(starts))])
    return Spans(starts, ends, np.add.reduceat(probabilities, starts) / (ends - starts))
