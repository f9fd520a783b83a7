"""Voice activity detection with the weights of WhisperX's wheel."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from worker.engine.results import SAMPLE_RATE, Waveform
from worker.engine.vad import VoiceActivityDetector
from worker.engine.whisperx_parts import vad

pytestmark = pytest.mark.models

CLIPS = sorted((Path(__file__).parents[2] / "data" / "librivox").glob("*.flac"))


@pytest.fixture(scope="module")
def detector() -> VoiceActivityDetector:
    return VoiceActivityDetector("cpu")


@pytest.fixture(scope="module")
def speech() -> Waveform:
    """The five clips twice over, with a pause after each: some 35 s."""
    pause = np.zeros(SAMPLE_RATE, np.float32)
    clips = [soundfile.read(clip, dtype="float32")[0] for clip in CLIPS]
    return np.concatenate([part for clip in clips * 2 for part in (clip, pause)])


def test_windows_hold_the_speech_and_are_at_most_30_s(detector: VoiceActivityDetector, speech: Waveform) -> None:
    windows = detector.windows(speech)
    assert len(windows) >= 2
    assert all(0 < window.end - window.start <= 30 for window in windows)
    assert all(before.end <= after.start for before, after in pairwise(windows))
    assert windows[-1].end <= len(speech) / SAMPLE_RATE


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # WhisperX's own
def test_windows_are_those_of_plain_whisperx(
    detector: VoiceActivityDetector, speech: Waveform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    theirs = vad.load_vad_model(torch.device("cpu"))
    scores = theirs({"waveform": torch.from_numpy(speech).unsqueeze(0), "sample_rate": SAMPLE_RATE})
    chunks = vad.merge_chunks(scores, 30, onset=0.5, offset=0.363)
    assert [(window.start, window.end) for window in detector.windows(speech)] == [(chunk["start"], chunk["end"]) for chunk in chunks]


@pytest.mark.parametrize("samples", [0, 1, 400, 3200, 16_000, 80_000, 80_001])
def test_silence_of_any_length_has_no_windows_and_prints_nothing(
    detector: VoiceActivityDetector, capfd: pytest.CaptureFixture[str], samples: int
) -> None:
    assert detector.windows(np.zeros(samples, np.float32)) == ()
    assert capfd.readouterr() == ("", "")


def test_a_word_shorter_than_the_models_window_is_found(detector: VoiceActivityDetector) -> None:
    clip, _ = soundfile.read(CLIPS[1], dtype="float32")
    (window,) = detector.windows(clip[4800:12_800])
    assert 0 <= window.start < window.end <= 0.5


def test_noise_and_tones_are_not_speech(detector: VoiceActivityDetector) -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, 5 * SAMPLE_RATE).astype(np.float32)
    tone = (0.3 * np.sin(np.arange(5 * SAMPLE_RATE) * 2 * np.pi * 440 / SAMPLE_RATE)).astype(np.float32)
    assert detector.windows(noise) == ()
    assert detector.windows(tone) == ()


def test_out_of_memory_changes_no_window(detector: VoiceActivityDetector, speech: Waveform) -> None:
    cramped, sizes = VoiceActivityDetector("cpu", batch_size=8), list[int]()
    forward = cramped._forward

    def small_memory(chunks: torch.Tensor) -> object:
        sizes.append(len(chunks))
        if len(chunks) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(chunks)

    cramped._forward = small_memory
    assert cramped.windows(speech) == detector.windows(speech)
    assert sizes[:3] == [8, 4, 2]
    assert max(sizes[2:]) == 2


def test_threads_share_a_detector(detector: VoiceActivityDetector, speech: Waveform) -> None:
    parts = [speech[: seconds * SAMPLE_RATE] for seconds in (5, 10, 15, 20)]
    alone = [detector.windows(part) for part in parts]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(detector.windows, parts)) == alone


def test_loading_and_running_is_quiet_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    VoiceActivityDetector("cpu")
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "torch").exists()
