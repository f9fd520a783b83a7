from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import JobCancelled, ModelMissing
from core.transcript import Timing
from tests.worker.engine.wav2vec2_models import save_model
from worker.engine.results import SAMPLE_RATE, Recognition, TimedSentence, TimedWord, Waveform, Window

pytestmark = [pytest.mark.models, pytest.mark.usefixtures("whisperx_imported")]

LETTERS = "|abcdefghijklmnopqrstuvwxyzäöüß'-."
CHINESE = "今天气很好我们去公园吧你呢"
TOLERANCE_S = 0.02

ENGLISH_CASES = [
    (0.0, 4.0, " Hello there, how are you today? I am fine."),
    (4.1, 9.7, " It cost $20 in 1999, or 3.5 percent. 42. Then we left."),
    (9.7, 9.9, " This text has far more characters than two tenths of a second have frames."),
    (10.0, 12.0, ""),
    (12.0, 14.0, "   "),
    (14.0, 16.0, " 12 345"),
    (16.0, 18.0, " 1999."),
    (18.0, 24.003, " Dr. No met Mrs. Smith vs. Prof. Plum.  Two spaces there. 7. 8. And a semi-automatic end..."),
    (24.01, 24.02, " a"),
    (24.5, 27.25, ' "Wait!" he said - "why?" (Nobody knew.) ÄÖÜ ça va | x'),
    (27.5, 28.0, " 20 minutes"),
    (28.0, 33.0, " over the end of the audio it goes"),
    (33.0, 33.5, " beyond it"),
    (0.0, 14.0, " ".join(f" This is sentence number {word} of a long one." for word in ("one", "two", "3", "four", "5"))),
]
CHINESE_CASES = [
    (0.0, 5.0, "今天天气很好。我们去公园吧！你呢？"),
    (5.0, 9.0, "今天 好. 我们 20 去公园. 很好"),
    (9.0, 12.0, "你没有的字呢"),
]


def recognition(start: float, end: float, text: str, words: tuple[TimedWord, ...] = ()) -> Recognition:
    return Recognition(Window(start, end), text, -0.2, 0.01, 1.3, words)


def recognitions(cases: Sequence[tuple[float, float, str]]) -> list[Recognition]:
    return [recognition(*case) for case in cases]


@pytest.fixture(scope="module")
def whisperx_imported() -> None:
    """Without the warnings of its dependencies, which are errors here."""
    import worker.engine.whisperx_parts  # noqa: F401


@pytest.fixture(scope="module")
def waveform() -> Waveform:
    rng = np.random.default_rng(5)
    loudness = np.repeat(rng.uniform(0.01, 0.5, 300), SAMPLE_RATE // 10)
    return np.asarray(rng.normal(size=len(loudness)) * loudness, dtype=np.float32)


@pytest.fixture(scope="module", params=["group", "layer"])
def english(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("english") / request.param
    return save_model(folder, LETTERS, request.param, stable=request.param == "layer")


@pytest.fixture(scope="module")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("chinese") / "model", CHINESE, "layer", stable=True)


def ours(folder: Path, language: str, waveform: Waveform, heard: Sequence[Recognition]) -> tuple[TimedSentence, ...]:
    from worker.engine.alignment import ForcedAligner

    return ForcedAligner.load(folder, language, "cpu").sentences(waveform, heard, check=lambda: None)


def whisperx_sentences(folder: Path, language: str, waveform: Waveform, heard: Recognition) -> list[dict[str, Any]]:
    from whisperx import alignment

    model, metadata = alignment.load_align_model(language, "cpu", model_name=str(folder))
    segment = {"start": heard.window.start, "end": heard.window.end, "text": heard.text}
    return list(alignment.align([segment], model, metadata, waveform, "cpu")["segments"])


def same_word(word: TimedWord, expected: dict[str, Any]) -> bool:
    if "start" not in expected:
        return word.text == expected["word"] and word.timing is Timing.INTERPOLATED and word.score is None
    return (
        word.text == expected["word"]
        and word.timing is Timing.ALIGNED
        and abs(word.start - expected["start"]) <= TOLERANCE_S
        and abs(word.end - expected["end"]) <= TOLERANCE_S
        and word.score == pytest.approx(expected["score"], abs=2e-3)
    )


def assert_parity(folder: Path, language: str, waveform: Waveform, heard: list[Recognition]) -> None:
    """All windows in one call of ours against one by one of whisperx's."""
    sentences = ours(folder, language, waveform, heard)
    for one in heard:
        expected = [sentence for sentence in whisperx_sentences(folder, language, waveform, one) if sentence["words"]]
        if not expected:
            continue  # whisperx has no times for any word: what ours then does, other tests say
        found = [sentence for sentence in sentences if sentence.recognition is one]
        assert [sentence.text.split() for sentence in found] == [sentence["text"].split() for sentence in expected]
        for sentence, theirs in zip(found, expected, strict=True):
            assert len(sentence.words) == len(theirs["words"])
            assert [pair for pair in zip(sentence.words, theirs["words"], strict=True) if not same_word(*pair)] == []


def test_words_times_and_sentences_are_those_of_whisperx(english: Path, waveform: Waveform) -> None:
    assert_parity(english, "en", waveform, recognitions(ENGLISH_CASES))


def test_so_they_are_in_a_language_without_spaces(chinese: Path, waveform: Waveform) -> None:
    assert_parity(chinese, "zh", waveform, recognitions(CHINESE_CASES))


def test_no_word_is_ever_dropped_and_all_stay_in_order_within_their_window(english: Path, waveform: Waveform) -> None:
    heard = recognitions(ENGLISH_CASES)
    sentences = ours(english, "en", waveform, heard)
    for one in heard:
        words = [word for sentence in sentences if sentence.recognition is one for word in sentence.words]
        assert [word.text for word in words] == one.text.split()
        times = [time for word in words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert all(one.window.start <= time <= one.window.end for time in times)


def test_a_text_that_cannot_be_aligned_keeps_the_times_it_came_with(english: Path, waveform: Waveform) -> None:
    word = TimedWord("1999", 16.5, 17.0, 0.8, Timing.ATTENTION)
    (sentence,) = ours(english, "en", waveform, [recognition(16.0, 18.0, " 1999", (word,))])
    assert sentence.words == (word,)


def test_a_cancelled_job_stops_before_the_next_batch(english: Path, waveform: Waveform) -> None:
    from worker.engine.alignment import ForcedAligner

    def cancelled() -> None:
        raise JobCancelled

    with pytest.raises(JobCancelled):
        ForcedAligner.load(english, "en", "cpu").sentences(waveform, recognitions(ENGLISH_CASES), check=cancelled)


def test_an_empty_folder_is_a_missing_model(tmp_path: Path) -> None:
    from worker.engine.alignment import ForcedAligner

    with pytest.raises(ModelMissing):
        ForcedAligner.load(tmp_path, "en", "cpu")
    with pytest.raises(ModelMissing):
        ForcedAligner.load(tmp_path, "en", "cpu", bundle="WAV2VEC2_ASR_BASE_960H")
