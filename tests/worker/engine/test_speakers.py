import copy
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.transcript import Timing
from worker.engine.results import Recognition, SpeakerTurn, TimedSentence, TimedWord, Window
from worker.engine.speakers import NEAR_S, assign_speakers, word_speakers


def word(text: str, start: float, end: float) -> TimedWord:
    return TimedWord(text, start, end, 0.9, Timing.ALIGNED)


def sentence(text: str, words: Sequence[TimedWord]) -> TimedSentence:
    heard = Recognition(Window(0.0, 30.0), text, -0.25, 0.02, 1.4, ())
    return TimedSentence(text, tuple(words), heard)


def evenly(text: str, start: float = 0.0) -> TimedSentence:
    """A word per second."""
    return sentence(text, [word(part, start + index, start + index + 1) for index, part in enumerate(text.split())])


A, B = "SPEAKER_00", "SPEAKER_01"

eighths = st.integers(0, 240).map(lambda number: number / 8)  # exact in binary, so that ties are ties for both
spans = st.tuples(eighths, eighths).map(sorted)
turns_lists = st.lists(
    st.builds(lambda span, speaker: SpeakerTurn(*span, speaker), spans, st.sampled_from(["A", "B", "C"])), min_size=1, max_size=12
)
word_lists = st.lists(st.builds(lambda span: word("w", *span), spans), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def whisperx_imported() -> None:
    """Without the warnings of its dependencies, which are errors here."""
    import worker.engine.whisperx_parts  # noqa: F401


@pytest.mark.models
@pytest.mark.usefixtures("whisperx_imported")
@settings(deadline=None, max_examples=60)
@given(word_lists, turns_lists)
def test_a_word_within_turns_has_the_speaker_that_whisperx_gives_it(words: list[TimedWord], turns: list[SpeakerTurn]) -> None:
    from pandas import DataFrame
    from whisperx.diarize import assign_word_speakers

    table = DataFrame([{"start": turn.start, "end": turn.end, "speaker": turn.speaker} for turn in turns])
    theirs = [{"word": one.text, "start": one.start, "end": one.end} for one in words]
    assign_word_speakers(table, {"segments": [{"start": 0.0, "end": 30.0, "words": theirs}]})
    for mine, expected in zip(word_speakers(words, turns), theirs, strict=True):
        assert mine == expected.get("speaker", mine)


@given(word_lists, turns_lists)
def test_every_word_has_a_speaker_where_anyone_speaks_near(words: list[TimedWord], turns: list[SpeakerTurn]) -> None:
    speakers = word_speakers(words, turns)
    assert None not in speakers or set(speakers) == {None}


@given(word_lists, turns_lists)
def test_the_order_of_turns_does_not_matter(words: list[TimedWord], turns: list[SpeakerTurn]) -> None:
    distinct = list({turn.start: turn for turn in turns}.values())
    assert word_speakers(words, distinct) == word_speakers(words, copy.copy(distinct)[::-1])


def test_overlaps_with_one_speaker_add_up() -> None:
    turns = [SpeakerTurn(0.0, 0.3, A), SpeakerTurn(0.3, 0.7, B), SpeakerTurn(0.7, 1.0, A)]
    assert word_speakers([word("w", 0.0, 1.0)], turns) == [A]


def test_a_word_outside_all_turns_goes_to_who_speaks_nearest() -> None:
    turns = [SpeakerTurn(0.0, 1.0, A), SpeakerTurn(2.0, 3.0, B)]
    assert word_speakers([word("w", 1.1, 1.3), word("w", 1.6, 1.9)], turns) == [A, B]


def test_a_word_far_from_all_turns_goes_with_the_word_before() -> None:
    far = 1.0 + NEAR_S + 0.1
    turns = [SpeakerTurn(0.0, 1.0, A), SpeakerTurn(9.0, 10.0, B)]
    assert word_speakers([word("w", 0.2, 0.8), word("w", far, far + 1)], turns) == [A, A]
    assert word_speakers([word("w", 4.0, 5.0), word("w", 9.2, 9.8)], turns) == [B, B]


def test_a_long_turn_under_short_ones_is_still_the_nearest_to_end() -> None:
    turns = [SpeakerTurn(0.0, 5.0, A), SpeakerTurn(1.0, 2.0, B)]
    assert word_speakers([word("w", 5.2, 5.4)], turns) == [A]


def test_a_word_of_no_length_inside_a_turn_is_its_speaker_s() -> None:
    turns = [SpeakerTurn(0.0, 5.0, A), SpeakerTurn(5.1, 6.0, B)]
    assert word_speakers([word("w", 4.9, 4.9)], turns) == [A]


def test_a_sentence_is_cut_where_the_speaker_changes() -> None:
    turns = [SpeakerTurn(0.0, 2.0, A), SpeakerTurn(2.0, 5.0, B)]
    segments = assign_speakers([evenly("Are you there? Yes, indeed.")], turns)
    assert [(one.id, one.speaker, one.text, one.start, one.end) for one in segments] == [
        (0, A, "Are you", 0.0, 2.0),
        (1, B, "there? Yes, indeed.", 2.0, 5.0),
    ]
    assert [[item.word for item in one.words] for one in segments] == [["Are", "you"], ["there?", "Yes,", "indeed."]]
    assert {item.speaker for item in segments[1].words} == {B}


def test_sentences_stay_apart_and_are_numbered_through() -> None:
    segments = assign_speakers([evenly("One two."), evenly("Three.", start=2.0)], [SpeakerTurn(0.0, 9.0, A)])
    assert [(one.id, one.text) for one in segments] == [(0, "One two."), (1, "Three.")]


def test_the_parts_of_a_sentence_without_spaces_have_none() -> None:
    characters = [word(character, index, index + 1) for index, character in enumerate("今天好")]
    segments = assign_speakers([sentence("今天好", characters)], [SpeakerTurn(0.0, 2.0, A), SpeakerTurn(2.0, 3.0, B)])
    assert [one.text for one in segments] == ["今天", "好"]


def test_figures_of_the_window_go_with_each_segment() -> None:
    (segment,) = assign_speakers([evenly("One two.")], [])
    assert (segment.avg_logprob, segment.no_speech_prob, segment.compression_ratio) == (-0.25, 0.02, 1.4)
    assert segment.speaker is None


def test_nothing_said_nothing_assigned() -> None:
    assert assign_speakers([], [SpeakerTurn(0.0, 1.0, A)]) == ()
