"""`python -m worker.health`, against reports in a real Redis."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from core.job_store import JobStore
from core.redis_steps import connect
from core.settings import Settings
from core.worker_reports import WorkerReport, WorkerState
from tests.conftest import ROOT, free_port
from worker.crew import Roll
from worker.health import look

HOST = socket.gethostname()
ROLL = Roll(os.getpid(), (11, 12))
FIT = WorkerReport("gpu-box-0", True, "", "cuda", "large-v2", state=WorkerState.FIT, host=HOST, pid=11)
OTHER = replace(FIT, slot="gpu-box-1", pid=12)


def unfit(state: WorkerState, reason: str) -> WorkerReport:
    return replace(OTHER, fit=False, state=state, reason=reason)


@pytest.mark.parametrize(
    ("reports", "faults"),
    [
        ([FIT, OTHER], []),
        ([FIT, unfit(WorkerState.DOWNLOADING, "models: 1.2 of 3.1 GB")], []),
        ([FIT, unfit(WorkerState.LOADING, "")], []),
        ([FIT, unfit(WorkerState.STARTING, "starting")], []),
        ([FIT, unfit(WorkerState.UNFIT, "no GPU")], ["gpu-box-1: no GPU"]),
        ([FIT, unfit(WorkerState.MODELS_MISSING, "no room")], ["gpu-box-1: no room"]),
        ([FIT], ["process 12 is silent: see the worker's log"]),
        ([FIT, replace(OTHER, host="another container")], ["process 12 is silent: see the worker's log"]),
        ([FIT, OTHER, replace(FIT, slot="elsewhere", host="another", state=WorkerState.UNFIT, reason="no GPU")], []),
    ],
)
def test_each_process_of_this_container_is_looked_at(redis_url: str, reports: list[WorkerReport], faults: list[str]) -> None:
    with connect(redis_url) as redis:
        for report in reports:
            JobStore(redis).report_worker(report, ttl_s=60)
    assert look(Settings(redis_url=redis_url), ROLL) == faults


def test_a_redis_that_is_away_makes_no_worker_unhealthy() -> None:
    assert look(Settings(redis_url=f"redis://127.0.0.1:{free_port()}/0"), ROLL) == []


def test_a_launcher_that_is_gone_is_a_fault(redis_url: str) -> None:
    with subprocess.Popen(["true"]) as gone:
        pass
    for roll in (None, replace(ROLL, launcher=gone.pid)):
        assert look(Settings(redis_url=redis_url), roll) == ["no worker runs here: `python -m worker` starts it"]


@pytest.mark.parametrize("program", ["worker.health", "dispatcher.health"])
def test_where_nothing_runs_the_command_says_so_with_status_1(tmp_path: Path, program: str) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith(f"no {program.partition('.')[0]} runs here")


def test_neither_health_check_waits_for_the_ml_stack() -> None:
    code = "import sys, worker.health, dispatcher.health; print({'torch', 'ctranslate2', 'numpy', 'huggingface_hub'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout == "set()\n"
