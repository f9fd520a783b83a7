"""The two digests that say whether here and there give the same words."""

import shutil
from pathlib import Path

import pytest

from core.burst import Stack
from core.errors import ModelMissing
from core.job_store import JobStore
from core.redis_steps import connect
from core.settings import Settings
from core.worker_reports import WorkerReport
from worker.model_lock import DIGESTS_FILE
from worker.presence import Presence
from worker.stack import stack_of


def test_the_same_models_elsewhere_have_the_same_digest_and_others_another(model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(model_dir, tmp_path / "models", copy_function=lambda source, target: Path(target).symlink_to(source),
                    ignore=shutil.ignore_patterns(DIGESTS_FILE, ".partial", ".pull.lock"))  # fmt: skip
    here = stack_of(Settings(asr_model="faster-whisper-tiny.en", model_dir=model_dir))
    there = stack_of(Settings(asr_model="faster-whisper-tiny.en", model_dir=tmp_path / "models"))
    other = stack_of(Settings(asr_model="faster-whisper-base", model_dir=model_dir))
    assert here == there
    assert here.lock_sha256 == other.lock_sha256
    assert here.models_sha256 != other.models_sha256


def test_a_model_that_nobody_knows_is_named() -> None:
    with pytest.raises(ModelMissing):
        stack_of(Settings(asr_model="no such model"))


def test_a_fit_worker_tells_its_digests(redis_url: str) -> None:
    with connect(redis_url) as redis:
        store = JobStore(redis)
        presence = Presence(store, WorkerReport("gpu0", False, "starting", "cpu", "tiny.en"), heartbeat_s=15)
        presence.is_fit(Stack(lock_sha256="l", models_sha256="m"))
        (report,) = store.workers()
    assert (report.fit, report.lock_sha256, report.models_sha256) == (True, "l", "m")
