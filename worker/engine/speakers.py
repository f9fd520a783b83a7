"""Who said each word, and the sentences cut where the speaker changes."""

from collections.abc import Sequence
from itertools import chain, groupby

import numpy as np
from numpy.typing import NDArray

from core.transcript import Segment, Word
from worker.engine.results import SpeakerTurn, TimedSentence, TimedWord
from worker.engine.sentences import locate, slices

NEAR_S = 0.5  # a word this close to a turn is its speaker's: diarization clips the quiet ends of words

Seconds = NDArray[np.float64]
Speakers = NDArray[np.intp]  # one per word, an index into the sorted labels; -1 is nobody


def assign_speakers(sentences: Sequence[TimedSentence], turns: Sequence[SpeakerTurn]) -> tuple[Segment, ...]:
    """Segments numbered from 0, each a sentence or the part of one that one speaker said; speaker None without turns."""
    words = [word for sentence in sentences for word in sentence.words]
    remaining = iter(word_speakers(words, turns))
    spoken = [[(word, next(remaining)) for word in sentence.words] for sentence in sentences]
    parts = chain.from_iterable(_cut(sentence, pairs) for sentence, pairs in zip(sentences, spoken, strict=True))
    return tuple(segment.model_copy(update={"id": index}) for index, segment in enumerate(parts))


def word_speakers(words: Sequence[TimedWord], turns: Sequence[SpeakerTurn]) -> list[str | None]:
    """The label of whose turns overlap the word longest in sum, the first label of equals, as whisperx 3.2.0 decides.

    Outside all turns: who speaks nearest within NEAR_S, else who said the word before, else the word after.
    """
    if not turns or not words:
        return [None] * len(words)
    ordered = sorted(turns, key=lambda turn: turn.start)
    labels, owners = np.unique([turn.speaker for turn in ordered], return_inverse=True)
    starts, ends = (np.array([getattr(turn, side) for turn in ordered]) for side in ("start", "end"))
    begins, untils = (np.array([getattr(word, side) for word in words]) for side in ("start", "end"))
    chosen = _by_overlap(begins, untils, starts, ends, owners)
    chosen = np.where(chosen < 0, _by_nearness(begins, untils, starts, ends, owners), chosen)
    return [str(labels[index]) for index in _carried(chosen)] if (chosen >= 0).any() else [None] * len(words)


def _by_overlap(begins: Seconds, untils: Seconds, starts: Seconds, ends: Seconds, owners: Speakers) -> Speakers:
    """The turns a word may overlap lie between the first that ends after it begins and the last that starts before it
    ends; all such pairs at once, in one flat list."""
    first = np.searchsorted(np.maximum.accumulate(ends), begins, side="right")
    counts = np.maximum(np.searchsorted(starts, untils, side="left") - first, 0)
    word = np.repeat(np.arange(len(begins)), counts)
    turn = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    overlap = np.maximum(np.minimum(untils[word], ends[turn]) - np.maximum(begins[word], starts[turn]), 0.0)
    speakers = int(owners.max()) + 1
    summed = np.bincount(word * speakers + owners[turn], weights=overlap, minlength=len(begins) * speakers)
    by_speaker = summed.reshape(len(begins), speakers)
    return np.where(by_speaker.max(axis=1) > 0, by_speaker.argmax(axis=1), -1)


def _by_nearness(begins: Seconds, untils: Seconds, starts: Seconds, ends: Seconds, owners: Speakers) -> Speakers:
    """For words that no turn overlaps: the last turn to end before, or the next to start, the former of equals."""
    latest = np.maximum.accumulate(ends)
    holder = np.maximum.accumulate(np.where(ends == latest, np.arange(len(ends)), 0))
    before = np.searchsorted(starts, untils, side="left") - 1
    after = np.searchsorted(starts, untils, side="left")
    gap_before = np.where(before >= 0, begins - latest[before], np.inf)
    gap_after = np.where(after < len(starts), starts[np.minimum(after, len(starts) - 1)] - untils, np.inf)
    nearest = np.where(gap_before <= gap_after, holder[before], np.minimum(after, len(starts) - 1))
    return np.where(np.minimum(gap_before, gap_after) <= NEAR_S, owners[nearest], -1)


def _carried(chosen: Speakers) -> Speakers:
    """Gaps filled with the value before, at the beginning with the first there is."""
    known = np.flatnonzero(chosen >= 0)
    last = np.searchsorted(known, np.arange(len(chosen)), side="right") - 1
    return np.asarray(chosen[known[np.maximum(last, 0)]])


def _cut(sentence: TimedSentence, spoken: list[tuple[TimedWord, str | None]]) -> list[Segment]:
    runs = [list(run) for _, run in groupby(spoken, key=lambda pair: pair[1])]
    places = locate(sentence.text, [word.text for word in sentence.words])
    firsts = np.cumsum([0, *(len(run) for run in runs[:-1])])
    texts = slices(sentence.text, [places[first] for first in firsts])
    return [_segment(sentence, text, run) for text, run in zip(texts, runs, strict=True)]


def _segment(sentence: TimedSentence, text: str, run: list[tuple[TimedWord, str | None]]) -> Segment:
    heard, speaker = sentence.recognition, run[0][1]
    return Segment(
        id=0,
        start=min(word.start for word, _ in run),
        end=max(word.end for word, _ in run),
        text=text,
        speaker=speaker,
        avg_logprob=heard.avg_logprob,
        no_speech_prob=heard.no_speech_prob,
        compression_ratio=heard.compression_ratio,
        words=tuple(_word(word, speaker) for word, _ in run),
    )


def _word(word: TimedWord, speaker: str | None) -> Word:
    return Word(word=word.text, start=word.start, end=word.end, score=word.score, speaker=speaker, timing=word.timing)
