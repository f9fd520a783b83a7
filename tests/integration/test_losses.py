"""Workers that die, freeze and hang with jobs in their hands, through all processes: each job ends once, and only the culprit pays."""

import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from client.models import Job
from tests.conftest import wait_for
from tests.scripted import ScriptedStack


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedStack]:
    settings = {"SPILLWAY_STALLED_AFTER_S": "3", "SPILLWAY_LEASE_S": "8", "SPILLWAY_HEARTBEAT_S": "2"}
    with ScriptedStack(tmp_path_factory.mktemp("losses"), settings, workers=2) as running:
        yield running


def log_of(scripted: ScriptedStack, event: str) -> list[dict[str, Any]]:
    lines = [line for path in scripted.stack.log_dir.glob("worker*.log") for line in path.read_text().splitlines()]
    said = [json.loads(line) for line in lines if line.startswith("{")]
    return [line for line in said if line["event"].startswith(event)]


def test_what_a_killed_worker_held_is_taken_back_within_ten_seconds(scripted: ScriptedStack) -> None:
    job = scripted.submit({"seconds": 2.0})
    os.kill(scripted.holder(job), signal.SIGKILL)
    killed = time.monotonic()
    wait_for(lambda: scripted.client.job(job.id).losses == 1, "the job to be taken back")
    print(f"taken back {time.monotonic() - killed:.1f} s after its worker was killed")  # noqa: T201
    assert time.monotonic() - killed < 10
    done = scripted.client.wait(job.id)
    assert (done.state, done.attempt, done.losses) == ("succeeded", 2, 1)


def test_a_frozen_worker_loses_its_job_and_its_late_result_is_not_seen(scripted: ScriptedStack) -> None:
    job = scripted.submit({"seconds": 1.5})
    frozen = scripted.holder(job)
    os.kill(frozen, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        wait_for(lambda: scripted.client.job(job.id).losses == 1, "the lease to run out", timeout_s=60)
        print(f"taken back {time.monotonic() - begun:.1f} s after its worker froze, with a lease of 8 s")  # noqa: T201
        done = scripted.client.wait(job.id)
    finally:
        os.kill(frozen, signal.SIGCONT)
    wait_for(lambda: [line for line in log_of(scripted, "job ended") if line["job_id"] == job.id and line["attempt"] == 1], "the late end")
    assert {line["outcome"] for line in log_of(scripted, "job ended") if line["job_id"] == job.id} == {"lost", "succeeded"}
    assert (done.state, done.attempt, done.losses) == ("succeeded", 2, 1)
    assert "attempt 2" in scripted.client.transcript(job.id, format="txt")
    assert scripted.client.job(job.id).attempt == 2


def test_a_hanging_job_ends_as_lost_and_costs_the_others_no_loss(scripted: ScriptedStack) -> None:
    hanging = scripted.submit({"then": "hang", "stage": "alignment", "seconds": 0.2})
    healthy = [scripted.submit({"seconds": 3.0}) for _ in range(6)]
    done = scripted.client.wait(hanging.id)
    assert done.error is not None
    assert (done.state, done.error.code, done.losses) == ("failed", "worker_lost", 3)
    assert "last in stage alignment" in done.error.message
    said = [(line["job_id"], line["stage"]) for line in log_of(scripted, "job hangs")]
    assert said == [(hanging.id, "alignment")] * 3
    ended = [scripted.client.wait(job.id) for job in healthy]
    assert {(job.state, job.losses) for job in ended} == {("succeeded", 0)}
    assert all(len([event for event in scripted.stages(job) if event[1:] == ("asr", "end")]) == 1 for job in ended), "ASR was paid twice"


def test_after_its_second_loss_a_job_runs_alone(scripted: ScriptedStack) -> None:
    poison = scripted.submit({"then": "segfault", "seconds": 0.5})
    healthy = [scripted.submit({"seconds": 0.5}) for _ in range(12)]
    done = scripted.client.wait(poison.id)
    assert done.error is not None
    assert (done.state, done.error.code, done.losses, done.attempt) == ("failed", "worker_lost", 3, 3)
    assert "last in stage asr" in done.error.message
    assert {scripted.client.wait(job.id).state for job in healthy} == {"succeeded"}
    begun = next(line for line in scripted.noted() if (line["job"], line["attempt"]) == (poison.id, 3))
    assert beside(scripted, begun, poison) == set()


def beside(scripted: ScriptedStack, begun: dict[str, Any], job: Job) -> set[str]:
    """Jobs whose stages ran in the same process after that moment: it died with the job."""
    same = [line for line in scripted.noted() if line["pid"] == begun["pid"] and line["job"] != job.id]
    open_before = {line["job"] for line in same if line["at"] < begun["at"] and line["event"] == "begin"}
    closed = {line["job"] for line in same if line["at"] < begun["at"] and (line["stage"], line["event"]) == ("alignment", "end")}
    return (open_before - closed) | {line["job"] for line in same if line["at"] >= begun["at"]}
