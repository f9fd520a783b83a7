import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.transcript import Timing
from worker.engine.results import Recognition, TimedWord, Window
from worker.engine.sentences import interpolate, locate, sentence_spans, sentences_from_words, slices, split_words

WINDOW = Window(2.0, 10.0)


def recognition(text: str, words: tuple[TimedWord, ...] = ()) -> Recognition:
    return Recognition(WINDOW, text, -0.2, 0.01, 1.3, words)


def timed(text: str, start: float, end: float) -> TimedWord:
    return TimedWord(text, start, end, 0.9, Timing.ATTENTION)


def attended(text: str, language: str = "en") -> tuple[TimedWord, ...]:
    return tuple(timed(word, 2.0 + index / 10, 2.1 + index / 10) for index, word in enumerate(split_words(text, language)))


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (" Hello there. How are you?", ["Hello there.", "How are you?"]),
        (" Dr. No met Mrs. Smith.", ["Dr. No met Mrs. Smith."]),
        (' "Wait!" he said. It cost 3.5 percent.', ['"Wait!"', "he said.", "It cost 3.5 percent."]),
        (" no end", ["no end"]),
    ],
)
def test_sentences_end_where_punkt_sees_an_end(text: str, sentences: list[str]) -> None:
    found = sentences_from_words(recognition(text, attended(text)), "en")
    assert [sentence.text for sentence in found] == sentences
    assert [" ".join(word.text for word in sentence.words) for sentence in found] == sentences


def test_words_keep_their_own_times() -> None:
    words = attended(" One. Two three.")
    found = sentences_from_words(recognition(" One. Two three.", words), "en")
    assert tuple(word for sentence in found for word in sentence.words) == words


def test_words_of_several_characters_are_found_in_a_text_without_spaces() -> None:
    words = (timed("今天", 2.0, 3.0), timed("好。", 3.0, 4.0), timed("我们", 4.0, 5.0))
    (found,) = sentences_from_words(recognition("今天好。我们", words), "zh")
    assert (found.text, found.words) == ("今天好。我们", words)


def test_without_times_the_words_share_the_window_by_their_length() -> None:
    (first, second) = sentences_from_words(recognition(" Abc. Abcd"), "en")
    assert first.words == (TimedWord("Abc.", 2.0, 6.0, None, Timing.INTERPOLATED),)
    assert second.words == (TimedWord("Abcd", 6.0, 10.0, None, Timing.INTERPOLATED),)


@pytest.mark.parametrize("text", ["", "   "])
def test_no_words_no_sentences(text: str) -> None:
    assert sentences_from_words(recognition(text), "en") == ()


texts = st.text(st.sampled_from("ab.?! \n\"'(今。"), max_size=60)


@given(texts, st.sampled_from(["en", "zh"]))
def test_no_word_is_lost_and_all_are_within_the_window_in_order(text: str, language: str) -> None:
    found = sentences_from_words(recognition(text), language)
    words = [word for sentence in found for word in sentence.words]
    assert [word.text for word in words] == split_words(text, language)
    assert all(sentence.words for sentence in found)
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert all(WINDOW.start <= time <= WINDOW.end for time in times)


@given(texts)
def test_no_text_is_lost(text: str) -> None:
    found = sentences_from_words(recognition(text), "en")
    assert "".join("".join(sentence.text for sentence in found).split()) == "".join(text.split())


@given(texts)
def test_sentences_do_not_overlap(text: str) -> None:
    edges = [edge for span in sentence_spans(text) for edge in span]
    assert edges == sorted(edges)


def test_words_without_times_fill_the_gap_between_their_neighbours() -> None:
    words = interpolate(["1", timed("one", 3.0, 4.0), "22", "333333", timed("two", 8.0, 9.0), "4"], WINDOW)
    assert [(word.text, word.start, word.end) for word in words] == [
        ("1", 2.0, 3.0),
        ("one", 3.0, 4.0),
        ("22", 4.0, 5.0),
        ("333333", 5.0, 8.0),
        ("two", 8.0, 9.0),
        ("4", 9.0, 10.0),
    ]
    assert [word.timing for word in words if word.score is None] == [Timing.INTERPOLATED] * 4


def test_where_there_is_no_gap_the_word_has_no_length() -> None:
    words = interpolate([timed("one", 2.0, 4.0), "2", timed("three", 4.0, 10.0), "4"], WINDOW)
    assert [(word.start, word.end) for word in words] == [(2.0, 4.0), (4.0, 4.0), (4.0, 10.0), (10.0, 10.0)]


def test_a_word_that_the_text_lacks_moves_none_of_the_others() -> None:
    assert locate("one two three", ["one", "zwei", "two", "three"]) == [0, 3, 4, 8]


def test_slices_lose_nothing() -> None:
    assert slices(" one, two three ", [1, 6]) == ["one,", "two three"]
