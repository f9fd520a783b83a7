"""Word times from cross-attention."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tokenizers
from faster_whisper.tokenizer import Tokenizer

from core.transcript import Timing
from worker.engine import attention_timing
from worker.engine.asr import DecodeOptions, SpeechRecognizer
from worker.engine.results import Recognition, TimedWord, Waveform, Window
from worker.engine.vad import VoiceActivityDetector
from worker.engine.whisper import Attention, Heard, Passage

pytestmark = pytest.mark.models

ROOT = Path(__file__).parents[3]
WINDOW = Window(10.0, 12.0)


def recognitions_of(waveform: Waveform, folder: Path) -> tuple[Recognition, ...]:
    recognizer = SpeechRecognizer(folder, device="cpu", compute_type="int8", batch_size=4, cpu_threads=1)
    options = DecodeOptions(language="en", is_timed=lambda _: True)
    windows = VoiceActivityDetector("cpu").windows(waveform)
    _, recognitions = recognizer.recognize(waveform, windows, options, job="job", on_window=lambda *_: None, check=lambda: None)
    recognizer.close()
    return recognitions


@pytest.fixture(scope="module")
def dialogue(model_dir: Path) -> tuple[Recognition, ...]:
    waveform, rate = soundfile.read(ROOT / "samples" / "dialogue.flac", dtype="float32")
    assert rate == 16_000
    return recognitions_of(waveform, model_dir / "faster-whisper-base")


def test_nine_of_ten_onsets_are_within_150_ms(dialogue: tuple[Recognition, ...]) -> None:
    known = json.loads((ROOT / "samples" / "dialogue.json").read_text())["words"]
    found = [word for recognition in dialogue for word in recognition.words]
    letters = [[_letters(word.text) for word in found], [_letters(word["word"]) for word in known]]
    assert letters[0] == letters[1], "the sample is heard as it was spoken"
    errors = np.abs([word.start - truth["start"] for word, truth in zip(found, known, strict=True)])
    assert np.mean(errors <= 0.15) >= 0.9
    assert np.median(errors) < 0.06


def test_words_are_those_of_the_text_in_order_within_the_window(dialogue: tuple[Recognition, ...]) -> None:
    for recognition in dialogue:
        assert [word.text for word in recognition.words] == recognition.text.split()
        assert_sound(recognition.words, recognition.window)
        assert all(word.score is not None and 0 < word.score <= 1 for word in recognition.words)
        assert {word.timing for word in recognition.words} == {Timing.ATTENTION}


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        (
            "en",
            ' "Well-known," he said - $5.50 (or 10%)... U.S.A.!',
            ['"Well-known,"', "he", "said", "-", "$5.50", "(or", "10%)...", "U.S.A.!"],
        ),
        ("en", " naïve 😀 café", ["naïve", "😀", "café"]),
        ("de", " Straße,  zwei  Leerzeichen", ["Straße,", "zwei", "Leerzeichen"]),
    ],
)
def test_words_reach_to_the_next_space(model_dir: Path, language: str, text: str, expected: list[str]) -> None:
    assert [word.text for word in timed(model_dir, language, text)] == expected


@pytest.mark.parametrize(("language", "text"), [("zh", "你好,世界。「今天」很好!"), ("ja", "こんにちは、世界。"), ("th", "สวัสดีครับ")])
def test_without_spaces_no_character_is_lost_and_punctuation_stays_with_its_word(model_dir: Path, language: str, text: str) -> None:
    words = timed(model_dir, language, text)
    assert "".join(word.text for word in words) == text
    assert len(words) > 1
    assert not any(word.text in attention_timing.CLOSING | attention_timing.OPENING for word in words)


def test_a_broken_character_at_the_end_loses_no_word(model_dir: Path) -> None:
    tokenizer = tokenizer_of(model_dir, "en")
    tokens = (*tokenizer.encode(" two words"), tokenizer.encode("😀")[0])
    words = attention_timing.words(WINDOW, passage(200), heard(tokenizer, tokens), tokenizer)
    assert [word.text for word in words] == tokenizer.decode(list(tokens)).split()


def test_where_attention_says_nothing_words_are_spread_and_say_so(model_dir: Path) -> None:
    tokenizer = tokenizer_of(model_dir, "en")
    silent = Heard(tuple(tokenizer.encode(" one two")), " one two", -0.1, 0.0, temperature=0.0)
    words = attention_timing.words(WINDOW, passage(200), silent, tokenizer)
    assert [(word.text, word.start, word.end, word.timing) for word in words] == [
        ("one", 10.0, 11.0, Timing.INTERPOLATED),
        ("two", 11.0, 12.0, Timing.INTERPOLATED),
    ]


def test_a_word_after_a_pause_begins_where_the_pause_ends(model_dir: Path) -> None:
    tokenizer = tokenizer_of(model_dir, "en")
    tokens = tuple(tokenizer.encode(" one two"))
    loud = passage(200)
    loud.features[:, 40:120] = -1.0  # from 0.4 to 1.2 s
    first, second = attention_timing.words(WINDOW, loud, heard(tokenizer, tokens, starts=(0, 25, 100)), tokenizer)
    assert 10.4 <= first.end <= 10.5
    assert 11.1 <= second.start <= 11.2


def timed(model_dir: Path, language: str, text: str) -> tuple[TimedWord, ...]:
    tokenizer = tokenizer_of(model_dir, language)
    words = attention_timing.words(WINDOW, passage(200), heard(tokenizer, tuple(tokenizer.encode(text))), tokenizer)
    assert_sound(words, WINDOW)
    return words


def tokenizer_of(model_dir: Path, language: str) -> Tokenizer:
    tokens = tokenizers.Tokenizer.from_file(str(model_dir / "faster-whisper-base" / "tokenizer.json"))
    return Tokenizer(tokens, True, task="transcribe", language=language)


def passage(frames: int) -> Passage:
    features = np.ones((80, 3000), np.float32)
    return Passage(features, None, frames, prompt=(), start=(), beam_size=5, timed=True, resample_loops=True)


def heard(tokenizer: Tokenizer, tokens: tuple[int, ...], starts: tuple[int, ...] | None = None) -> Heard:
    """Attention that reaches each token in turn, three frames after the other unless told."""
    path = tuple(enumerate(starts or range(0, 3 * len(tokens) + 1, 3)))
    attention = Attention(path, (0.5,) * len(tokens), heads=())
    return Heard(tokens, tokenizer.decode(list(tokens)), -0.1, 0.0, temperature=0.0, attention=attention)


def assert_sound(words: tuple[TimedWord, ...], window: Window) -> None:
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert window.start <= times[0]
    assert times[-1] <= window.end


def _letters(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())
