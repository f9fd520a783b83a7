"""The command by hand, at a build, and a worker that asks it at its start."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from core.job_store import JobStore
from core.redis_steps import connect
from core.settings import Settings
from core.worker_reports import WorkerReport, WorkerState
from tests.conftest import ROOT, wait_for
from tests.worker.doctor.environments import doctor
from worker.doctor.examine import examine
from worker.doctor.findings import Verdict
from worker.doctor.libraries import QUESTIONS, library_findings
from worker.doctor.occasion import Occasion
from worker.doctor.probing import Answer


@pytest.fixture
def fit(redis_url: str, tmp_path: Path, model_dir: Path, ffmpeg: str) -> dict[str, str]:
    """Settings of a machine on which all is well."""
    return {
        "redis_url": redis_url,
        "file_store_dir": str(tmp_path / "files"),
        "model_dir": str(model_dir),
        "asr_model": "tiny.en",
        "device": "cpu",
        "ffmpeg": ffmpeg,
        "max_upload_bytes": "1",
    }


def test_a_machine_on_which_all_is_well_is_fit(fit: dict[str, str]) -> None:
    doctored = doctor(**fit)
    assert (doctored.status, doctored.wrong()) == (0, set())
    assert [line.check for line in doctored.findings if line.verdict is Verdict.NOT_CHECKED] == ["GPU libraries"]


def test_a_build_asks_nothing_that_only_a_run_can_know(ffmpeg: str) -> None:
    doctored = doctor("--build", gpu_stack="none", ffmpeg=ffmpeg, redis_url="redis://127.0.0.1:1/0", file_store_dir="/sys/spillway")
    unknown = {line.check for line in doctored.findings if line.verdict is Verdict.NOT_CHECKED}
    assert doctored.status == 0
    assert {"GPU libraries", "Redis", "file store", "Whisper model", "gated models", "Modal token"} <= unknown


def test_a_wrong_setting_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "worker.doctor"], cwd=ROOT, env={"SPILLWAY_BEAMS": "1"}, check=False)
    assert done.returncode == 1
    assert "SPILLWAY_BEAMS" in capfd.readouterr().err


@pytest.mark.models
def test_an_unfit_worker_takes_no_jobs_and_says_why(fit: dict[str, str], redis_url: str, tmp_path: Path) -> None:
    settings = {f"SPILLWAY_{name.upper()}": value for name, value in fit.items()} | {
        "SPILLWAY_GPU_STACK": "none",
        "SPILLWAY_DEVICE": "cuda",
        "SPILLWAY_WORKER_SLOT": "box",
    }
    log, store = tmp_path / "log", JobStore(connect(redis_url))
    store.report_worker(WorkerReport("box", False, "no driver", "cuda", "tiny.en", state=WorkerState.UNFIT), ttl_s=60)  # the last time
    with (
        log.open("w") as out,
        subprocess.Popen(
            [sys.executable, "-m", "worker.celery_app"], cwd=ROOT, env=os.environ | settings, stdout=out, stderr=out
        ) as worker,
    ):
        try:
            wait_for(lambda: store.workers()[0].state is WorkerState.STARTING, "the worker to start", timeout_s=90)
            (starting,) = store.workers()
            wait_for(lambda: store.workers()[0].state is WorkerState.UNFIT, "the worker to say so", timeout_s=90)
            (report,) = store.workers()
        finally:
            worker.kill()
    (line,) = [json.loads(line) for line in log.read_text().splitlines() if '"fault"' in line]
    assert starting.reason == "starting again; the last time it was unfit: no driver"
    assert not report.fit
    assert report.reason.startswith("GPU libraries: built without CUDA (GPU_STACK=none)")
    assert (line["check"], "GPU_STACK=cu118" in line["remedy"]) == ("GPU libraries", True)


def test_every_line_has_its_row_in_the_documentation(ffmpeg: str, tmp_path: Path) -> None:
    documented = set(re.findall(r"^\| ([^|]+?) \|", (ROOT / "docs" / "doctor.md").read_text(), re.MULTILINE))
    settings = Settings(ffmpeg=ffmpeg, gpu_stack="none", model_dir=tmp_path, file_store_dir=tmp_path, redis_url="redis://127.0.0.1:1/0")
    said = [*examine(settings, Occasion.BY_HAND), *library_findings(settings, dict.fromkeys(QUESTIONS, Answer(error="broken")))]
    written = {
        name for path in (ROOT / "worker" / "doctor").glob("*.py") for name in re.findall(r'Finding\(\s*"([^"]+)"', path.read_text())
    }
    assert ({finding.check for finding in said} | written) - documented == set()
