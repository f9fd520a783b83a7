"""The doctor by hand beside a worker that runs: reports in a real Redis, slots with real locks, and a driver of the test's own."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.job_store import JobStore
from core.redis_steps import connect
from core.settings import Settings
from core.worker_reports import WorkerReport, WorkerState
from tests.conftest import ROOT
from tests.worker.doctor.drivers import driver
from tests.worker.doctor.environments import doctor
from worker.doctor.findings import Verdict
from worker.doctor.running import running_worker
from worker.slots import take_slot

FIT = WorkerReport("box", True, "", "cuda", "large-v2", state=WorkerState.FIT, host="the worker's container", pid=7)
HERE = f"{socket.gethostname()}-cuda-0"


@pytest.fixture
def settings(redis_url: str, tmp_path: Path) -> dict[str, Any]:
    return {"redis_url": redis_url, "file_store_dir": tmp_path / "files", "worker_slot": "box", "asr_model": "large-v2"}


@contextmanager
def running(settings: dict[str, Any], report: WorkerReport = FIT) -> Iterator[None]:
    with connect(settings["redis_url"]) as redis:
        JobStore(redis).report_worker(report, ttl_s=60)
    with take_slot(report.slot, settings["file_store_dir"]).lock:
        yield


@pytest.mark.parametrize(
    ("report", "mine", "found"),
    [
        (FIT, {}, "box"),
        (replace(FIT, slot="box-0"), {}, "box-0"),
        (replace(FIT, slot="box.2"), {}, "box.2"),
        (replace(FIT, fit=False, state=WorkerState.LOADING), {}, "box"),
        (replace(FIT, slot="box-1"), {"device_index": 1}, "box-1"),
        (replace(FIT, slot=HERE), {"worker_slot": None}, HERE),
        (replace(FIT, slot="box-1"), {}, None),  # on the other GPU
        (replace(FIT, slot="another"), {}, None),
        (replace(FIT, fit=False, state=WorkerState.UNFIT), {}, None),
        (replace(FIT, device="cpu"), {}, None),
        (FIT, {"device": "cpu"}, None),
    ],
)
def test_a_worker_counts_that_holds_this_gpus_memory(
    settings: dict[str, Any], report: WorkerReport, mine: dict[str, Any], found: str | None
) -> None:
    with running(settings, report):
        assert running_worker(Settings.model_validate(settings | mine)) == found


def test_a_worker_that_was_stopped_just_now_counts_no_more(settings: dict[str, Any]) -> None:
    with running(settings):
        assert running_worker(Settings(**settings)) == "box"
    assert running_worker(Settings(**settings)) is None


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "no address"])
def test_without_redis_nobody_is_known_to_run(settings: dict[str, Any], url: str) -> None:
    assert running_worker(Settings(**settings | {"redis_url": url})) is None


@pytest.mark.models
def test_memory_that_our_own_worker_holds_is_no_fault(settings: dict[str, Any], ffmpeg: str, tmp_path: Path) -> None:
    given = {name: str(value) for name, value in settings.items()}
    with running(settings):
        line = doctor(library_path=str(driver(tmp_path / "driver", free_mib=700)), ffmpeg=ffmpeg, **given).of("GPU memory")
    assert (line.verdict, line.remedy) == (Verdict.OK, "")
    assert line.found == "0.7 GiB of 12.0 GiB free; held by worker box, whose plan is in its log (`memory budget`)"


def test_the_self_test_beside_a_worker_says_how_to_make_room(settings: dict[str, Any]) -> None:
    environment = os.environ | {f"SPILLWAY_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "worker.doctor", "--deep", "--json"]
    with running(settings):
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: worker box runs on this GPU")
    for way in ("stop worker", "run --rm worker python -m worker.doctor --deep", "start worker"):
        assert f"`docker compose {way}`" in done.stderr
