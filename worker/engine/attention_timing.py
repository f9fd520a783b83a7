"""When each word was said, from Whisper's own cross-attention.

The method is openai/whisper's (timing.py): dynamic time warping over the attention of the alignment heads says in which
frame each token begins. It leaves a pause to the word before or after it; here the loudness of the window says where the
pause begins and ends.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from faster_whisper.tokenizer import Tokenizer
from numpy.typing import NDArray

from core.transcript import Timing
from worker.engine.features import Features
from worker.engine.results import TimedWord, Window
from worker.engine.whisper import Attention, Heads, Heard, Passage

TOKEN_FRAME_S = 0.02
FEATURE_FRAME_S = 0.01

# How late a model's alignment heads turn to a word, by the heads in its config.json: the best of a grid on 171 words whose onsets
# are known (LibriVox by forced alignment, samples/dialogue.flac by synthesis). Other models were not at hand and are taken as they
# are; base uncorrected has 92 % of the dialogue's onsets within 150 ms in place of 99 %.
HEADS_LAG_S: dict[Heads, float] = {
    ((3, 1), (4, 2), (4, 3), (4, 7), (5, 1), (5, 2), (5, 4), (5, 6)): -0.05,  # base
    ((1, 0), (2, 0), (2, 5), (3, 0), (3, 1), (3, 2), (3, 3), (3, 4)): 0.09,  # tiny.en
}

# Chosen on the same words; neighbouring values do as well.
QUIET = 0.35  # of the way from the window's noise (10th percentile of loudness) to its speech (95th)
PAUSE_FRAMES = 10  # 100 ms: the closure of a "t" is shorter
SLACK_S = 0.2  # a word that begins this little before a pause was said after it
EDGE_S = 0.03  # soft sounds at the edge of a pause belong to the word

UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue"})  # where faster-whisper's tokenizer needs no spaces to split words
OPENING = frozenset("\"'“¿([{-「『（《")
CLOSING = frozenset("\"'.。,，!！?？:：”)]}、」』）》…")


@dataclass(frozen=True)
class _Piece:
    """A part of the text and the range of its tokens that speech was heard for."""

    text: str
    first: int
    last: int  # exclusive

    @property
    def is_spoken(self) -> bool:
        return any(character.isalnum() for character in self.text)

    def joined(self, other: "_Piece") -> "_Piece":
        """Punctuation lends its text, and its tokens only to other punctuation."""
        text = self.text + other.text
        if other.is_spoken and not self.is_spoken:
            return _Piece(text, other.first, other.last)
        return _Piece(text, self.first, self.last if self.is_spoken and not other.is_spoken else other.last)


def words(window: Window, passage: Passage, heard: Heard, tokenizer: Tokenizer) -> tuple[TimedWord, ...]:
    """The words of the text, all of them; within the window, in order."""
    spaced = tokenizer.language_code not in UNSPACED
    pieces = _words_of(heard, tokenizer, spaced)
    if heard.attention is None or not heard.attention.path or not _covers(pieces, heard.text, spaced):
        return _spread(heard.text.split(), window)
    spans = _spans(pieces, heard.attention)
    spans = _without_pauses(spans, passage.features[:, : passage.frames])
    spans = _ordered(spans, window.end - window.start)
    return tuple(_timed(piece, span, window, heard.attention) for piece, span in zip(pieces, spans, strict=True))


def _words_of(heard: Heard, tokenizer: Tokenizer, spaced: bool) -> list[_Piece]:
    texts, tokens = tokenizer.split_to_word_tokens(list(heard.tokens))
    ends = np.cumsum([len(part) for part in tokens]).tolist()
    pieces = [_Piece(text, last - len(part), last) for text, part, last in zip(texts, tokens, ends, strict=True)]
    return [piece for piece in _merged(pieces, spaced) if piece.text.strip()]


def _merged(pieces: Iterable[_Piece], spaced: bool) -> list[_Piece]:
    """With spaces a word reaches to the next space; without, punctuation joins the word that it belongs to."""
    merged: list[_Piece] = []
    for piece in pieces:
        if merged and (not piece.text[:1].isspace() if spaced else _belong_together(merged[-1].text, piece.text)):
            merged[-1] = merged[-1].joined(piece)
        else:
            merged.append(piece)
    return merged


def _belong_together(before: str, after: str) -> bool:
    return after.strip() in CLOSING or before.strip() in OPENING


def _covers(pieces: Sequence[_Piece], text: str, spaced: bool) -> bool:
    """Whether no letter is missing: the tokenizer may leave a broken character at the end out."""
    separator = " " if spaced else ""
    return separator.join(piece.text.strip() for piece in pieces) == separator.join(text.split())


def _spans(pieces: Sequence[_Piece], attention: Attention) -> NDArray[np.float64]:
    """Shape = (words, 2): start and end, seconds in the window."""
    path = np.array(attention.path)
    tokens, firsts = np.unique(path[:, 0], return_index=True)
    begins = np.interp(np.arange(len(attention.probabilities) + 1), tokens, path[firsts, 1]) * TOKEN_FRAME_S
    begins -= HEADS_LAG_S.get(attention.heads, 0.0)
    return np.array([(begins[piece.first], begins[piece.last]) for piece in pieces])


def _without_pauses(spans: NDArray[np.float64], features: Features) -> NDArray[np.float64]:
    """A word that begins or ends within a pause begins where the pause ends, or ends where it begins."""
    trimmed = spans.copy()
    for first, last in _pauses(features):
        begin, end = first * FEATURE_FRAME_S, last * FEATURE_FRAME_S
        starts_within = (spans[:, 0] > begin - SLACK_S) & (spans[:, 0] < end) & (spans[:, 1] > end)
        ends_within = (spans[:, 1] > begin) & (spans[:, 1] < end + SLACK_S) & (spans[:, 0] < begin)
        trimmed[starts_within, 0] = end - EDGE_S
        trimmed[ends_within, 1] = begin + EDGE_S
    return trimmed


def _pauses(features: Features) -> list[tuple[int, int]]:
    """Runs of quiet feature frames: first, and the one after the last."""
    loudness = features.mean(axis=0)
    floor, peak = np.percentile(loudness, (10, 95))
    quiet = np.concatenate(([False], loudness < floor + QUIET * (peak - floor), [False]))
    edges = np.flatnonzero(np.diff(quiet)).reshape(-1, 2)
    return [(int(first), int(last)) for first, last in edges if last - first >= PAUSE_FRAMES]


def _ordered(spans: NDArray[np.float64], length_s: float) -> NDArray[np.float64]:
    """Within the window, starts and ends non-decreasing, no word into the next."""
    starts = np.maximum.accumulate(np.clip(spans[:, 0], 0, length_s))
    ends = np.maximum(np.minimum(spans[:, 1], np.append(starts[1:], length_s)), starts)
    return np.stack([starts, ends], axis=1)


def _timed(piece: _Piece, span: NDArray[np.float64], window: Window, attention: Attention) -> TimedWord:
    score = float(np.mean(attention.probabilities[piece.first : piece.last]))
    start, end = (min(window.start + float(time), window.end) for time in span)
    return TimedWord(piece.text.strip(), start, end, score, Timing.ATTENTION)


def _spread(texts: Sequence[str], window: Window) -> tuple[TimedWord, ...]:
    """Evenly over the window: where attention says nothing."""
    edges = np.linspace(window.start, window.end, len(texts) + 1).tolist()
    return tuple(TimedWord(text, edges[i], edges[i + 1], None, Timing.INTERPOLATED) for i, text in enumerate(texts))
