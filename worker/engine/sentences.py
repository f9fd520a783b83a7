"""Words of a window, all of them timed, gathered into sentences: what every way of timing words ends in."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from itertools import accumulate, groupby, pairwise

from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

from core.transcript import Timing
from worker.engine.results import Recognition, TimedSentence, TimedWord, Window

# whisperx 3.2.0 (alignment.py): there every character is a word. Thai, Lao and Burmese it splits at spaces.
LANGUAGES_WITHOUT_SPACES = frozenset({"ja", "zh"})
ABBREVIATIONS = frozenset({"dr", "vs", "mr", "mrs", "prof"})  # of whisperx 3.2.0, whatever the language


@cache
def _punkt() -> PunktSentenceTokenizer:
    parameters = PunktParameters()
    parameters.abbrev_types = set(ABBREVIATIONS)
    return PunktSentenceTokenizer(parameters)


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Where whisperx's untrained Punkt sees sentences, as half-open character ranges; the space between is in none."""
    return list(_punkt().span_tokenize(text))


def split_words(text: str, language: str) -> list[str]:
    """The words as whisperx counts them: between spaces, or each visible character in a language without spaces."""
    pieces = text if language in LANGUAGES_WITHOUT_SPACES else text.split(" ")
    return [word for word in map(str.strip, pieces) if word]


def locate(text: str, words: Sequence[str]) -> list[int]:
    """The index of each word's first character. A word that the text lacks is put where its predecessor ends."""
    places, cursor = [], 0
    for word in words:
        found = text.find(word, cursor)
        places.append(max(found, cursor))
        cursor = places[-1] + (len(word) if found >= 0 else 0)
    return places


def slices(text: str, starts: Sequence[int]) -> list[str]:
    """The text cut before each start but the first, nothing lost, without the space around the pieces."""
    bounds = [0, *starts[1:], len(text)]
    return [text[start:end].strip() for start, end in pairwise(bounds)]


def sentences_from_words(recognition: Recognition, language: str) -> tuple[TimedSentence, ...]:
    """The sentences by the recognition's own word times; without any, its words spread over the window."""
    words = recognition.words or interpolate(split_words(recognition.text, language), recognition.window)
    places = locate(recognition.text, [word.text for word in words])
    starts = [start for start, _ in sentence_spans(recognition.text)]
    return gather(recognition, words, places, starts)


def gather(recognition: Recognition, words: Sequence[TimedWord], places: Sequence[int], starts: Sequence[int]) -> tuple[TimedSentence, ...]:
    """The sentences that begin at the starts, with their words; text without a word goes to the sentence before it.

    places are the indices of the words' first characters in the text, ascending.
    """
    placed = zip(places, words, strict=True)
    by_sentence = groupby(placed, key=lambda pair: max(bisect_right(starts, pair[0]) - 1, 0))
    groups = {index: tuple(word for _, word in group) for index, group in by_sentence}
    texts = slices(recognition.text, [starts[index] if starts else 0 for index in groups])
    return tuple(TimedSentence(text, members, recognition) for text, members in zip(texts, groups.values(), strict=False))


def interpolate(words: Sequence[TimedWord | str], window: Window) -> tuple[TimedWord, ...]:
    """Every word timed: one that came as a string takes its share, by length, of the gap between its neighbours."""
    filled: list[TimedWord] = []
    waiting: list[str] = []
    for word in words:
        if isinstance(word, str):
            waiting.append(word)
            continue
        filled += _spread(waiting, filled[-1].end if filled else window.start, word.start)
        filled.append(word)
        waiting.clear()
    return (*filled, *_spread(waiting, filled[-1].end if filled else window.start, window.end))


def _spread(texts: Sequence[str], start: float, end: float) -> list[TimedWord]:
    if not texts:
        return []
    end = max(start, end)
    total = sum(map(len, texts))
    bounds = [start + (end - start) * passed / total for passed in accumulate(map(len, texts), initial=0)]
    return [TimedWord(text, begin, until, None, Timing.INTERPOLATED) for text, (begin, until) in zip(texts, pairwise(bounds), strict=True)]
