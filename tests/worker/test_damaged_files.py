"""Files that the disk has changed behind our back."""

from collections.abc import Callable
from pathlib import Path

import pytest

from core.job import JobState, Stage
from core.transcript import Transcript
from tests.worker.box import Box, transcript
from worker.work import Work

DAMAGES: dict[str, Callable[[Path], object]] = {
    "a bit flipped": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x01"),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
}


def path_of(box: Box, key: str) -> Path:
    with box.files.local_copy(key) as path:
        return path


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_recording_that_is_not_what_was_accepted_is_never_transcribed(box: Box, damage: str) -> None:
    job = box.submit()
    DAMAGES[damage](path_of(box, job.input_key))
    box.runner(lambda _: pytest.fail("it was transcribed")).work()
    failed = box.store.get(job.id)
    assert failed.error is not None
    assert (failed.state, failed.error.code) == (JobState.FAILED, "input_lost")
    assert "send it again" in failed.error.message
    assert (f"jobs/{job.id}" in failed.error.message, failed.losses) == (False, 0)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_stage_product_that_is_not_what_was_kept_is_made_again(box: Box, damage: str) -> None:
    def transcribe(work: Work) -> Transcript:
        if work.attempt == 1:
            work.keep(Stage.ASR, b"words " * 200)
            DAMAGES[damage](path_of(box, box.store.get(work.job_id).products["asr"]))
            raise RuntimeError("broke")
        assert work.kept == {}
        return transcript(work)

    job = box.submit()
    box.runner(transcribe).work()
    assert box.store.get(job.id).state == JobState.SUCCEEDED
