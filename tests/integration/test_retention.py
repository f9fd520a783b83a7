"""Lifetimes through all processes: what an ended job loses, while another one runs on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from client.errors import ServiceRefused
from tests.conftest import files_in, wait_for
from tests.scripted import ScriptedStack

SOON = {"SPILLWAY_KEEP_INPUTS_S": "0", "SPILLWAY_KEEP_PRODUCTS_S": "0", "SPILLWAY_KEEP_RESULTS_S": "5"}


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[ScriptedStack]:
    with ScriptedStack(tmp_path, SOON) as running:
        yield running


def test_an_ended_job_goes_by_and_by_and_a_running_one_keeps_all_it_needs(stack: ScriptedStack, tmp_path: Path) -> None:
    def files(job_id: str) -> list[str]:
        return files_in(tmp_path / "files" / "jobs" / job_id)

    poison = stack.submit({"then": "segfault", "stage": "alignment", "times": 1})
    done = stack.client.wait(poison.id)
    running = stack.submit({"seconds": 60})
    assert (done.attempt, done.expires_at is None) == (2, False)
    wait_for(lambda: files(done.id) == ["transcript-2.json"], "recording and products to be deleted")
    assert "attempt 2" in stack.client.transcript(done.id, format="txt")

    wait_for(lambda: not (tmp_path / "files" / "jobs" / done.id).exists(), "the job to be deleted")
    with pytest.raises(ServiceRefused, match="its time was over"):
        wait_for(lambda: stack.client.job(done.id) is None, "the record to be deleted")
    assert "input" in files(running.id)
    assert stack.client.job(running.id).state == "running"
