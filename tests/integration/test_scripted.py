"""Jobs that break as their scripts say, through all processes."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.scripted import ScriptedStack


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedStack]:
    with ScriptedStack(tmp_path_factory.mktemp("scripted")) as running:
        yield running


def test_a_job_whose_worker_died_goes_on_where_its_stages_were_kept(scripted: ScriptedStack) -> None:
    job = scripted.submit({"then": "segfault", "stage": "alignment", "times": 1})
    done = scripted.client.wait(job.id)
    assert (done.state, done.attempt, done.losses) == ("succeeded", 2, 1)
    assert f"attempt {done.attempt}" in scripted.client.transcript(job.id, format="txt")
    assert scripted.stages(job) == [
        (1, "asr", "begin"), (1, "asr", "end"), (1, "alignment", "begin"), (2, "alignment", "begin"), (2, "alignment", "end"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("script", "code"),
    [({"then": "exit"}, "worker_lost"), ({"then": "out_of_memory"}, "out_of_memory"), ({"then": "break"}, "engine_failed")],
    ids=["the process ends", "out of memory", "a stage breaks"],
)
def test_a_job_that_breaks_every_time_fails_with_its_reason(scripted: ScriptedStack, script: dict[str, Any], code: str) -> None:
    poison, healthy = scripted.submit(script), scripted.submit({"seconds": 0.1})
    done = scripted.client.wait(poison.id)
    assert done.error is not None
    assert (done.state, done.error.code) == ("failed", code)
    assert scripted.client.wait(healthy.id).state == "succeeded"
