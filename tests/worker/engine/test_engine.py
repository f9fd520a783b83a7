"""The engine as a whole: the multilingual model, what is kept for a retry, and what happens when a half of it breaks."""

import math
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile

from core.errors import JobCancelled
from core.job import JobOptions, Stage
from core.settings import Settings
from core.transcript import Timing
from service.job_metrics import MODELS
from tests.conftest import ROOT
from tests.worker.engine.wav2vec2_models import save_model
from worker.engine.aligners import NamedAligner
from worker.engine.alignment import ForcedAligner
from worker.engine.engine import Engine
from worker.engine.load import load_engine
from worker.work import Work

pytestmark = pytest.mark.models

SECONDS = 8  # of the sample: a turn of each speaker


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Iterator[Engine]:
    settings = Settings(device="cpu", asr_model="faster-whisper-base", model_dir=model_dir, cpu_threads=2, pull_on_first_use=False)
    loaded = load_engine(settings)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def audio() -> bytes:
    waveform, rate = soundfile.read(ROOT / "samples" / "dialogue.flac", dtype="float32")
    return bytes(waveform[: SECONDS * rate].tobytes())


class Attempt:
    """A job's attempt with what it kept and reported."""

    def __init__(self, audio: bytes, *, kept: dict[Stage, bytes] | None = None, check: Callable[[], None] = lambda: None, **options: Any):
        self.products: dict[Stage, bytes] = {}
        self.stages: list[Stage] = []
        self.progress: list[float] = []
        duration_s = len(audio) / 4 / 16_000
        asked = JobOptions(**options)
        self.work = Work("job", 1, asked, audio, 0.0, duration_s, kept or {}, self.products.__setitem__, self.report, check)

    def report(self, stage: Stage, progress: float) -> None:
        self.stages.append(stage)
        self.progress.append(progress)


def test_the_language_is_detected_and_both_speakers_are_heard(engine: Engine, audio: bytes) -> None:
    attempt = Attempt(audio)
    transcript = engine.transcribe(attempt.work)
    assert transcript.language == "en"
    assert transcript.language_probability is not None
    assert transcript.language_probability > 0.9
    assert [speaker.label for speaker in transcript.speakers] == ["SPEAKER_00", "SPEAKER_01"]
    assert "service desk" in transcript.text
    assert transcript.models.embedding == "campplus-zh-en"
    assert transcript.warnings == ()
    assert attempt.progress == sorted(attempt.progress)
    assert attempt.progress[-1] == pytest.approx(1.0)
    assert {Stage.VAD, Stage.ASR, Stage.DIARIZATION} <= set(attempt.stages)
    assert all(attempt.stages.count(stage) > 2 for stage in (Stage.VAD, Stage.ASR))  # the watchdog sees each batch
    assert set(attempt.products) == {Stage.ASR, Stage.DIARIZATION}


def test_what_the_models_did_is_counted_by_the_names_that_are_exported(engine: Engine, audio: bytes) -> None:
    engine.transcribe(Attempt(audio, language="en").work)
    figures = engine.figures()
    assert {name.partition(":")[2] for name in figures.counts} == set(MODELS)
    assert figures.counts["batch_windows:asr"] > 0
    assert figures.memory is None


def test_a_retry_starts_behind_what_was_kept_and_ends_the_same(engine: Engine, audio: bytes) -> None:
    first = Attempt(audio)
    transcript = engine.transcribe(first.work)
    again = engine.transcribe(Attempt(audio, kept=first.products).work)
    assert again.segments == transcript.segments
    assert again.turns == transcript.turns
    assert not {"asr", "diarization"} & set(again.run.stages_s)


def test_a_product_that_cannot_be_read_is_made_again(engine: Engine, audio: bytes) -> None:
    torn = {Stage.ASR: b'{"language": {"co', Stage.DIARIZATION: b"[]]"}
    transcript = engine.transcribe(Attempt(audio, kept=torn).work)
    assert "service desk" in transcript.text
    assert len(transcript.speakers) == 2


def test_a_translation_is_timed_by_attention(engine: Engine, audio: bytes) -> None:
    transcript = engine.transcribe(Attempt(audio, task="translate", language="en", diarize=False).work)
    words = [word for segment in transcript.segments for word in segment.words]
    assert len(words) > 5
    assert {word.timing for word in words} == {Timing.ATTENTION}


@pytest.mark.filterwarnings("ignore:\\s*The detected number of speakers:UserWarning")  # silenced by us, which pytest undoes
def test_the_number_of_speakers_is_heeded_and_a_miss_is_said(engine: Engine, audio: bytes) -> None:
    one = engine.transcribe(Attempt(audio, num_speakers=1).work)
    assert [speaker.label for speaker in one.speakers] == ["SPEAKER_00"]
    many = engine.transcribe(Attempt(audio, num_speakers=7).work)
    assert "speaker_count" in [warning.code for warning in many.warnings]


class OneLanguage:
    """English can be aligned, with a model of random weights: the mechanics, not the times."""

    def __init__(self, folder: Path) -> None:
        model = save_model(folder, "|abcdefghijklmnopqrstuvwxyz'", "group", stable=False)
        self._aligner = ForcedAligner.load(model, "en", "cpu")

    def get(self, language: str) -> NamedAligner | None:
        return NamedAligner("wav2vec2-random", self._aligner) if language == "en" else None


def test_where_the_language_has_a_model_words_are_aligned(engine: Engine, audio: bytes, tmp_path: Path) -> None:
    aligning = Engine(replace(engine._parts, aligners=OneLanguage(tmp_path / "model")), jobs=1)  # type: ignore[arg-type]
    transcript = aligning.transcribe(Attempt(audio, diarize=False).work)
    aligning._beside.shutdown()
    words = [word for segment in transcript.segments for word in segment.words]
    assert transcript.models.alignment == "wav2vec2-random"
    assert {word.timing for word in words} == {Timing.ALIGNED}
    assert all(word.score is not None for word in words)
    assert [word.start for word in words] == sorted(word.start for word in words)


class BrokenDiarizer:
    def turns(self, *_: object, **__: object) -> Any:
        raise IndexError("clustering found nothing to index")


@pytest.fixture
def broken(engine: Engine) -> Iterator[Engine]:
    halved = Engine(replace(engine._parts, diarizer=BrokenDiarizer()), jobs=2)  # type: ignore[arg-type]
    yield halved
    halved._beside.shutdown()


@pytest.mark.parametrize("wish", ["warn", "fail"])
def test_a_failed_diarization_leaves_the_words_with_a_warning(broken: Engine, audio: bytes, wish: str) -> None:
    attempt = Attempt(audio, language="en", on_diarization_failure=wish)
    transcript = broken.transcribe(attempt.work)
    assert "service desk" in transcript.text
    assert [warning.code for warning in transcript.warnings] == ["diarization_failed"]
    assert {segment.speaker for segment in transcript.segments} == {None}
    assert Stage.ASR in attempt.products, "the words are kept for the retry"


def test_a_cancelled_job_stops_both_halves(engine: Engine, audio: bytes) -> None:
    looks = iter(range(1000))

    def check() -> None:
        if next(looks) > 3:
            raise JobCancelled("job")

    with pytest.raises(JobCancelled):
        engine.transcribe(Attempt(audio * 4, check=check).work)


def test_a_recording_that_broke_off_says_so(engine: Engine, audio: bytes) -> None:
    attempt = Attempt(audio[: len(audio) // 4 * 2], diarize=False)
    whole = replace(attempt.work, duration_s=float(SECONDS))
    assert [warning.code for warning in engine.transcribe(whole).warnings] == ["truncated"]


def test_samples_that_are_no_number_do_not_silence_the_speech_around_them(engine: Engine, audio: bytes) -> None:
    samples = array("f", audio)
    samples[:: 16_000 * 2] = array("f", [math.nan] * len(samples[:: 16_000 * 2]))
    transcript = engine.transcribe(Attempt(samples.tobytes(), language="en").work)
    assert "service desk" in transcript.text
    assert [speaker.label for speaker in transcript.speakers] == ["SPEAKER_00", "SPEAKER_01"]


@pytest.mark.parametrize("samples", [0, 1, 400, 3200])
def test_next_to_nothing_is_an_empty_transcript(engine: Engine, samples: int) -> None:
    transcript = engine.transcribe(Attempt(bytes(4 * samples)).work)
    assert transcript.segments == ()
    assert [warning.code for warning in transcript.warnings] == ["no_speech"]
