"""Two real engines under one launcher, as on a box with two GPUs: a process each, which share the queue and nothing else."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.api import SpillwayClient
from core.job_store import JobStore
from core.redis_steps import connect
from core.worker_reports import WorkerReport
from tests.conftest import wait_for
from tests.integration.conftest import LIBRIVOX
from tools.local_stack import LocalStack, Plan
from tools.stack_parts import PROGRAMS
from tools.supervisor import Program

pytestmark = pytest.mark.models
SPEECH = sorted(LIBRIVOX.glob("*.flac"))
# The launcher's own plan for two GPUs; the processes themselves run on the CPU.
LAUNCHER = """
import os, sys
from core.process import begin
from worker.__main__ import COMMAND, environments
from worker.crew import Crew
settings = begin("worker").model_copy(update={"device": "cuda"})
sys.exit(Crew(COMMAND, environments(settings, os.environ, lambda: 2)).run())
"""


@pytest.fixture
def pair(tmp_path: Path, model_dir: Path) -> Iterator[LocalStack]:
    # One job each at a time, so that none has all of them; TMPDIR is where the launcher says who runs.
    settings = {"SPILLWAY_ASR_MODEL": "faster-whisper-tiny.en", "SPILLWAY_MODEL_DIR": str(model_dir), "SPILLWAY_MAX_JOBS_IN_FLIGHT": "1"}
    command = ("/usr/bin/env", f"TMPDIR={tmp_path}", sys.executable, "-c", LAUNCHER)
    programs = tuple(Program("worker", command) if program.name == "worker" else program for program in PROGRAMS)
    with LocalStack(Plan(tmp_path / "stack", settings, port=0, programs=programs)) as running:
        yield running


def test_two_real_engines_share_a_queue_and_one_dies_without_the_other(pair: LocalStack) -> None:
    with connect(pair.redis_url) as redis, SpillwayClient(pair.url) as client:
        store = JobStore(redis)

        def fit() -> dict[str, WorkerReport]:
            return {report.slot: report for report in store.workers() if report.fit}

        wait_for(lambda: set(fit()) == {"local-0", "local-1"}, "both engines", timeout_s=120)
        before = fit()
        alone = client.wait(client.submit(SPEECH[0]).id)
        sent = [client.submit(path) for path in SPEECH]
        wait_for(lambda: {job.slot for job in store.running()} == {"local-0", "local-1"}, "both to have a job", timeout_s=60)
        wait_for(lambda: is_killed_with_a_job(before["local-1"], store), "it to be killed with a job")
        ended = [client.wait(job.id) for job in sent]
        assert {job.state for job in ended} == {"succeeded"}
        assert sum(job.losses for job in ended) == 1
        assert client.transcript(ended[0].id, format="txt") == client.transcript(alone.id, format="txt")
        assert fit()["local-0"].pid == before["local-0"].pid


def is_killed_with_a_job(worker: WorkerReport, store: JobStore) -> bool:
    """Frozen first, so that it cannot end the job in that moment."""
    os.kill(worker.pid, signal.SIGSTOP)
    holds_one = any(job.slot == worker.slot for job in store.running())
    os.kill(worker.pid, signal.SIGKILL if holds_one else signal.SIGCONT)
    return holds_one
