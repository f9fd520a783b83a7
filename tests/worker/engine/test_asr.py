"""Recognition with tiny.en and base on real speech."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile

from core.errors import InvalidRequest, JobCancelled, ModelMissing
from worker.engine.asr import DecodeOptions, SpeechRecognizer, _is_invented
from worker.engine.features import log_mel
from worker.engine.results import SAMPLE_RATE, Language, Recognition, Waveform, Window
from worker.engine.whisper import Heard, Passage, Whisper
from worker.engine.whisperx_parts import log_mel_spectrogram

pytestmark = pytest.mark.models

CLIPS = Path(__file__).parents[2] / "data" / "librivox"
REFERENCES: dict[str, str] = json.loads((CLIPS / "transcription.json").read_text())
WORDS = jiwer.Compose([jiwer.ToLowerCase(), jiwer.SubstituteRegexes({"mr\\.": "mister", "-": " "}), jiwer.RemovePunctuation()])


def load(folder: Path) -> SpeechRecognizer:
    return SpeechRecognizer(folder, device="cpu", compute_type="int8", batch_size=4, cpu_threads=1)


@pytest.fixture(scope="module")
def tiny(model_dir: Path) -> Iterator[SpeechRecognizer]:
    recognizer = load(model_dir / "faster-whisper-tiny.en")
    yield recognizer
    recognizer.close()


@pytest.fixture(scope="module")
def base(model_dir: Path) -> Iterator[SpeechRecognizer]:
    recognizer = load(model_dir / "faster-whisper-base")
    yield recognizer
    recognizer.close()


@pytest.fixture(scope="module")
def clips() -> list[Waveform]:
    return [soundfile.read(CLIPS / name, dtype="float32")[0] for name in REFERENCES]


def joined(clips: list[Waveform]) -> tuple[Waveform, list[Window]]:
    """One recording, a window per clip."""
    ends = np.cumsum([len(clip) for clip in clips]) / SAMPLE_RATE
    starts = [0.0, *ends[:-1].tolist()]
    return np.concatenate(clips), [Window(start, end) for start, end in zip(starts, ends.tolist(), strict=True)]


def recognize(
    recognizer: SpeechRecognizer, clips: list[Waveform], options: DecodeOptions | None = None, *, job: str = "job"
) -> tuple[Language, tuple[Recognition, ...]]:
    waveform, windows = joined(clips)
    return recognizer.recognize(waveform, windows, options or DecodeOptions(), job=job, on_window=lambda *_: None, check=lambda: None)


def test_real_speech_is_understood(tiny: SpeechRecognizer, clips: list[Waveform]) -> None:
    _, recognitions = recognize(tiny, clips)
    heard = [WORDS(recognition.text) for recognition in recognitions]
    assert jiwer.wer(list(REFERENCES.values()), heard) < 0.12
    assert all(-0.5 < recognition.avg_logprob < 0 for recognition in recognitions)
    assert all(0 <= recognition.no_speech_prob < 0.5 for recognition in recognitions)
    assert all(0.5 < recognition.compression_ratio < 2 for recognition in recognitions)


def test_progress_counts_windows(tiny: SpeechRecognizer, clips: list[Waveform]) -> None:
    waveform, windows = joined(clips)
    seen: list[tuple[int, ...]] = []
    tiny.recognize(waveform, windows, DecodeOptions(), job="job", on_window=lambda *counts: seen.append(counts), check=lambda: None)
    assert seen == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]


def test_out_of_memory_changes_no_word(tiny: SpeechRecognizer, model_dir: Path, clips: list[Waveform]) -> None:
    cramped, sizes = load(model_dir / "faster-whisper-tiny.en"), list[int]()
    decode = cramped._decoding._forward

    def small_memory(passages: list[Passage]) -> list[Heard]:
        sizes.append(len(passages))
        if len(passages) > 2:
            raise RuntimeError("CUDA failed with error out of memory")
        return decode(passages)

    cramped._decoding._forward = small_memory
    _, unhurried = recognize(tiny, clips)
    _, recognitions = recognize(cramped, clips)
    cramped.close()
    assert [recognition.text for recognition in recognitions] == [recognition.text for recognition in unhurried]
    too_large = next(place for place, size in enumerate(sizes) if size > 2)  # the first may be alone, before the others have come
    assert max(sizes[too_large + 1 :]) <= 2


@pytest.mark.parametrize("kind", ["silence", "noise", "tone"])
def test_no_text_is_invented_where_nobody_speaks(base: SpeechRecognizer, kind: str) -> None:
    """Windows that voice activity detection should not have given at all."""
    time = np.arange(5 * SAMPLE_RATE) / SAMPLE_RATE
    sounds = {
        "silence": np.zeros_like(time),
        "noise": np.random.default_rng(1).normal(0, 0.05, len(time)),
        "tone": 0.3 * np.sin(2 * np.pi * 440 * time),
    }
    _, recognitions = recognize(base, [sounds[kind].astype(np.float32)], DecodeOptions(language="en"))
    assert recognitions == ()


@pytest.mark.parametrize(
    ("no_speech_prob", "avg_logprob", "text", "invented"),
    [
        (0.7, -1.1, " Thank you.", True),
        (0.7, -0.9, " Hello.", False),
        (0.5, -1.1, " Hello.", False),
        (0.9, -0.4, " you", True),
        (0.1, -0.1, " ", True),
    ],
)
def test_a_window_is_dropped_by_whispers_own_rule(no_speech_prob: float, avg_logprob: float, text: str, invented: bool) -> None:
    assert _is_invented(Heard((), text, avg_logprob, no_speech_prob, temperature=0.0)) == invented


def test_no_windows_give_no_text(base: SpeechRecognizer) -> None:
    waveform = np.zeros(0, np.float32)
    language, recognitions = base.recognize(waveform, (), DecodeOptions(), job="job", on_window=lambda *_: None, check=lambda: None)
    assert (language, recognitions) == (Language("en", 0.0), ())


def test_a_prompt_reaches_the_decoder(tiny: SpeechRecognizer, clips: list[Waveform]) -> None:
    _, (plain,) = recognize(tiny, clips[:1])
    _, (prompted,) = recognize(tiny, clips[:1], DecodeOptions(initial_prompt="Mister John Dashwoode, Mister Dashwoode"))
    assert plain.text.startswith(" And Mr. John Dashwood had")
    assert prompted.text != plain.text


def test_a_prompt_longer_than_whisper_takes_is_cut(tiny: SpeechRecognizer, clips: list[Waveform]) -> None:
    _, recognitions = recognize(tiny, clips[:1], DecodeOptions(initial_prompt="It is a truth universally acknowledged. " * 100))
    assert len(recognitions) == 1


def test_jobs_with_different_prompts_run_at_the_same_time_as_if_alone(tiny: SpeechRecognizer, clips: list[Waveform]) -> None:
    options = [DecodeOptions(), DecodeOptions(initial_prompt="Dashwoode")]
    alone = [recognize(tiny, clips[:2], option) for option in options]
    with ThreadPoolExecutor(4) as threads:
        together = threads.map(lambda i: recognize(tiny, clips[:2], options[i % 2], job=str(i)), range(4))
    for i, (language, recognitions) in enumerate(together):
        assert language == alone[i % 2][0]
        assert [recognition.text for recognition in recognitions] == [recognition.text for recognition in alone[i % 2][1]]


def test_jobs_in_different_languages_share_batches_and_keep_their_words(base: SpeechRecognizer, clips: list[Waveform]) -> None:
    options = [DecodeOptions(language="en", is_timed=lambda _: True), DecodeOptions(language="de", is_timed=lambda _: True)]
    alone = [recognize(base, clips[1:2], option) for option in options]
    with ThreadPoolExecutor(2) as threads:
        together = list(threads.map(lambda i: recognize(base, clips[1:2], options[i], job=str(i)), range(2)))
    texts = [[recognition.text for recognition in recognitions] for _, recognitions in together]
    assert texts == [[recognition.text for recognition in recognitions] for _, recognitions in alone]
    for _, recognitions in together:
        for recognition in recognitions:
            assert [word.text for word in recognition.words] == recognition.text.split()


def test_the_language_is_detected(base: SpeechRecognizer, clips: list[Waveform]) -> None:
    language, recognitions = recognize(base, clips[:2])
    _, named = recognize(base, clips[:2], DecodeOptions(language="en"))
    assert language.code == "en"
    assert language.probability is not None
    assert 0.9 < language.probability <= 1
    assert [recognition.text for recognition in recognitions] == [recognition.text for recognition in named]


def test_a_named_language_has_no_probability(base: SpeechRecognizer, clips: list[Waveform]) -> None:
    language, _ = recognize(base, clips[1:2], DecodeOptions(language="en"))
    assert language == Language("en", None)


@pytest.mark.parametrize(
    ("options", "field"),
    [(DecodeOptions(language="de"), "language"), (DecodeOptions(task="translate"), "task")],
    ids=["german", "translate"],
)
def test_an_english_model_refuses_what_it_cannot_do(tiny: SpeechRecognizer, options: DecodeOptions, field: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        recognize(tiny, [np.zeros(100, np.float32)], options)
    assert raised.value.field == field
    assert "set SPILLWAY_ASR_MODEL to a multilingual one" in str(raised.value)


@pytest.mark.parametrize("language", ["xx", "english", "transcribe", "yue"])
def test_a_language_that_the_model_does_not_know_is_refused(base: SpeechRecognizer, language: str) -> None:
    with pytest.raises(InvalidRequest, match="leave it out"):
        recognize(base, [np.zeros(100, np.float32)], DecodeOptions(language=language))


def test_a_cancelled_job_stops_and_leaves_the_recognizer_to_others(tiny: SpeechRecognizer, clips: list[Waveform]) -> None:
    waveform, windows = joined(clips * 4)
    seen = threading.Event()

    def check() -> None:
        if seen.is_set():
            raise JobCancelled

    with pytest.raises(JobCancelled):
        tiny.recognize(waveform, windows, DecodeOptions(), job="long", on_window=lambda *_: seen.set(), check=check)
    _, recognitions = recognize(tiny, clips[:1], job="next")
    assert len(recognitions) == 1


def test_a_loop_is_sampled_anew_and_says_so(tiny: SpeechRecognizer, clips: list[Waveform], monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that every text passes stands for a loop: real ones do not come on demand."""
    monkeypatch.setattr("worker.engine.whisper.REPETITION_LIMIT", 0.1)
    _, (sampled,) = recognize(tiny, clips[4:])
    _, (plain,) = recognize(tiny, clips[4:], DecodeOptions(filters=False))
    assert sampled.avg_logprob >= plain.avg_logprob
    assert plain.temperature == 0


def test_a_text_that_repeats_itself_is_a_loop() -> None:
    heard = Heard((), " I am sorry." * 20, -0.1, 0.0, temperature=0.0)
    assert heard.loops
    assert not replace(heard, text=" I am sorry that you had to wait for so long.").loops


def test_features_are_whisperx_own(clips: list[Waveform]) -> None:
    expected = log_mel_spectrogram(clips[0], n_mels=80, padding=480_000 - len(clips[0])).numpy()
    features = log_mel(clips[0], 80)
    assert (features.shape, features.dtype) == ((80, 3000), np.float32)
    assert np.array_equal(features, expected)


def test_a_folder_without_a_model_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ModelMissing, match=r"model\.bin"):
        Whisper(tmp_path, device="cpu", compute_type="int8")
