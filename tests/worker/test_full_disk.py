"""The runner on a real disk that is full."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.job import JobState, Stage
from core.transcript import Transcript
from tests.conftest import files_in
from tests.disk import fill, make_room, small_disk
from tests.worker.box import Box, transcript
from worker.runner import FILE_STORE_PAUSE_S
from worker.work import Work


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 4) as mounted:
        yield mounted


@pytest.fixture
def box(redis_url: str, disk: Path, ffmpeg: str) -> Iterator[Box]:
    made = Box(redis_url, disk, ffmpeg)
    yield made
    made.close()


ENGINES: dict[str, Callable[[Work], Transcript]] = {
    "a stage product": lambda work: work.keep(Stage.ASR, b"words") or transcript(work),  # type: ignore[func-returns-value]
    "the result": transcript,
}


@pytest.mark.parametrize("what", ENGINES)
def test_a_disk_that_fills_up_costs_a_job_nothing_but_time(box: Box, disk: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    now = time.monotonic()
    monkeypatch.setattr("worker.runner.monotonic", lambda: now)
    fills = True

    def transcribe(work: Work) -> Transcript:
        if fills:
            fill(disk)
        return ENGINES[what](work)

    job, runner = box.submit(), box.runner(transcribe)
    runner.work()
    back = box.store.get(job.id)
    assert (back.state, back.losses, back.error) == (JobState.QUEUED, 0, None)
    assert box.redis.hget(f"spillway:job:{job.id}", "failures") is None
    make_room(disk)
    assert [Path(name).name for name in files_in(disk)] == ["input"]

    assert runner.work() == 0
    now, fills = now + FILE_STORE_PAUSE_S, False
    assert runner.work() == 1
    done = box.store.get(job.id)
    assert (done.state, done.attempt, box.reasons) == (JobState.SUCCEEDED, 2, [])
    assert done.result_key is not None
    assert Transcript.model_validate_json(box.files.read(done.result_key)).run.attempt == 2
