"""What a container on Modal does that cannot work: it answers, and says what to do."""

from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from core.burst import Bundle, BundleJob, Reply
from core.errors import SettingsError
from core.job import JobOptions
from core.settings import Settings
from worker.container import BurstWorker, fill_models
from worker.cuda_start import cuda_fault

pytestmark = pytest.mark.models
BUNDLE = Bundle(deadline_s=60, jobs=(BundleJob(id="a", attempt=1, options=JobOptions(), duration_s=1.0),))


def settings(model_dir: Path, ffmpeg: str, **more: Any) -> Settings:
    chosen = {"asr_model": "faster-whisper-tiny.en", "align_languages": (), "device": "cpu", "gpu_stack": "none", "pull_at_start": False}
    return Settings(model_dir=model_dir, ffmpeg=ffmpeg, **{**chosen, **more})


def test_without_models_every_bundle_hears_how_to_fill_the_volume(tmp_path: Path, ffmpeg: str) -> None:
    worker = BurstWorker(lambda: settings(tmp_path, ffmpeg), monotonic())
    refusal = Reply.read(worker.run(BUNDLE.plain(), {}, "fc-1")).refusal
    assert refusal is not None
    assert (refusal.code, worker.is_fit, worker.is_host_bad) == ("model_missing", False, False)
    assert "python -m dispatcher.burst setup" in refusal.message


def test_without_cuda_the_host_is_what_is_bad(model_dir: Path, ffmpeg: str) -> None:
    if cuda_fault() is None:
        pytest.skip("this machine has CUDA")
    worker = BurstWorker(lambda: settings(model_dir, ffmpeg, device="cuda"), monotonic())
    assert (worker.is_fit, worker.is_host_bad) == (False, True)


@pytest.mark.parametrize("error", [SettingsError("SPILLWAY_GCS_CREDENTIALS is wrong"), MemoryError(), KeyError("model")], ids=repr)
def test_whatever_breaks_at_its_start_is_every_bundles_answer(error: Exception) -> None:
    """A container whose start fails is started again by Modal, and paid for, until somebody stops it."""

    def broken() -> Settings:
        raise error

    worker = BurstWorker(broken, monotonic())
    for _ in range(2):
        refusal = Reply.read(worker.run(BUNDLE.plain(), {}, "fc-1")).refusal
        assert refusal is not None
        assert (str(error) or "MemoryError") in refusal.message
    assert (worker.is_fit, worker.is_host_bad) == (False, False)
    assert (str(error) or "MemoryError") in fill_models(broken)["error"]


def test_a_full_volume_is_not_filled_again(model_dir: Path, ffmpeg: str) -> None:
    said = fill_models(lambda: settings(model_dir, ffmpeg))
    assert said["error"] is None
    assert "tiny.en: up to date" in said["said"]


def test_what_cannot_be_filled_says_why(tmp_path: Path, ffmpeg: str) -> None:
    assert "no-such-model" in fill_models(lambda: settings(tmp_path, ffmpeg, asr_model="no-such-model"))["error"]
