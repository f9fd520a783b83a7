"""Bursts through all processes: jobs that come by HTTP go to a Modal on loopback, whose container runs the deployed method for real."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from client.models import Job
from core.bursts import Bursts
from core.job_store import JobStore
from core.redis_steps import connect
from tests.conftest import wait_for
from tests.integration.conftest import LIBRIVOX
from tests.modal_deployment import DeployableServer
from tests.modal_server import Conduct
from tests.scripted import ScriptedStack

pytestmark = pytest.mark.models
SPEECH = sorted(LIBRIVOX.glob("*.flac"))[:2]


@contextmanager
def bursting(folder: Path, **more: str) -> Iterator[ScriptedStack]:
    """Whose only worker takes one job at a time, and has one that takes for ever; of what waits the first stays for it in any case."""
    settings = {
        "SPILLWAY_BURST": "true", "SPILLWAY_TARGET_WAIT_S": "0", "SPILLWAY_MODAL_SCALEDOWN_S": "2", "SPILLWAY_MAX_JOBS_IN_FLIGHT": "1",
        "SPILLWAY_MODAL_TOKEN_ID": "ak-test", "SPILLWAY_MODAL_TOKEN_SECRET": "as-test",
    }  # fmt: skip
    with ScriptedStack(folder, settings | more, real=bool(more)) as stack:
        with connect(stack.stack.redis_url) as redis:
            Bursts(redis, JobStore(redis)).measure(cold_start_s=0.1, real_time_factor=1.0)  # any job is worth a container
        yield stack


def occupied(stack: ScriptedStack) -> Job:
    blocker = stack.submit({"seconds": 3600})
    stack.holder(blocker)
    return blocker


def queue(stack: ScriptedStack) -> dict[str, Any]:
    return dict(httpx.get(f"{stack.stack.url}/v1/queue").json()["burst"])


def call_id(stack: ScriptedStack) -> str | None:
    with connect(stack.stack.redis_url) as redis:
        return next((burst.call_id for burst in Bursts(redis, JobStore(redis)).under_way()), None)


def test_jobs_come_back_from_modal_with_the_words_of_the_box(
    modal_server: DeployableServer, tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODAL_SERVER_URL", modal_server.url)
    before = len(modal_server.calls)
    models = {"SPILLWAY_ASR_MODEL": "faster-whisper-tiny.en", "SPILLWAY_MODEL_DIR": str(model_dir)}
    with bursting(tmp_path, **models) as stack:
        blocker = occupied(stack)
        here = [stack.client.submit(path, diarize=False, local_only=True) for path in SPEECH]
        away = [stack.client.submit(path, diarize=False) for path in SPEECH]
        ended = [stack.client.wait(job.id) for job in away]
        assert [(job.state, job.runner, job.attempt, job.losses) for job in ended] == [("succeeded", "modal", 1, 0)] * 2
        wait_for(lambda: queue(stack)["calls"] == 0, "the call to be settled")
        (day,) = queue(stack)["days"]
        assert (day["jobs"], day["reserved_usd"], day["spent_usd"] > 0) == (2, 0, True)
        assert day["calls"] == len(modal_server.calls) - before
        assert f'spillway_burst_spent_usd{{window="day"}} {day["spent_usd"]}' in httpx.get(f"{stack.stack.url}/metrics").text
        stack.client.cancel(blocker.id)
        for mine, theirs in zip(here, away, strict=True):
            assert (stack.client.wait(mine.id).state, stack.client.job(mine.id).runner) == ("succeeded", "local")
            local, remote = (json.loads(stack.client.transcript(job.id)) for job in (mine, theirs))
            assert (local["run"]["runner"], remote["run"]["runner"]) == ("local", "modal")
            assert remote["segments"] == local["segments"]
            assert remote["models"] == local["models"]


def test_the_next_dispatcher_brings_home_the_call_of_one_that_was_killed(
    modal_server: DeployableServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODAL_SERVER_URL", modal_server.url)
    ends, before = threading.Event(), len(modal_server.calls)
    modal_server.conducts = [Conduct(ends=ends)]
    with bursting(tmp_path) as stack:
        occupied(stack)
        stack.client.submit(SPEECH[0], diarize=False, local_only=True)
        job = stack.client.submit(SPEECH[0], diarize=False)
        wait_for(lambda: call_id(stack), "a call under way", timeout_s=60)
        killed = stack.stack.pid("dispatcher")
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: stack.stack.pid("dispatcher") not in (None, killed), "another dispatcher", timeout_s=60)
        ends.set()
        ended = stack.client.wait(job.id)
        assert (ended.state, ended.runner, ended.attempt, ended.losses) == ("succeeded", "modal", 1, 0)
        wait_for(lambda: queue(stack)["calls"] == 0, "the call to be settled")
        (day,) = queue(stack)["days"]
        assert (day["calls"], day["jobs"], day["reserved_usd"], day["spent_usd"] > 0) == (1, 1, 0, True)
        assert len(modal_server.calls) - before == 1
