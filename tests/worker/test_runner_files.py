"""A runner whose files are gone or cannot be written, or whose jobs all break."""

import os
from pathlib import Path

import pytest

from core.errors import BucketDenied, DiskFull, OurError, StorageUnavailable
from core.job import JobState, Stage
from core.job_files import read_result
from core.transcript import Transcript
from tests.worker.box import Box, transcript
from worker.runner import MOST_BROKEN
from worker.work import Work


def test_a_job_waits_for_the_disk_with_its_result_alone(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def transcribe(work: Work) -> Transcript:
        work.keep(Stage.ASR, b"words")
        return transcript(work)

    job, synced = box.submit(), []
    monkeypatch.setattr(os, "fsync", synced.append)
    box.runner(transcribe).work()
    assert box.store.get(job.id).state == JobState.SUCCEEDED
    assert len(synced) == 2  # its bytes, its name in the job's folder


def test_a_deleted_job_leaves_no_product_behind(box: Box) -> None:
    def transcribe(work: Work) -> Transcript:
        box.store.delete(work.job_id)
        box.files.delete_job(work.job_id)
        work.keep(Stage.ASR, b"words")
        raise AssertionError("unreachable")

    job = box.submit()
    box.runner(transcribe).work()
    with pytest.raises(FileNotFoundError):
        box.files.read(f"jobs/{job.id}/products/1-asr.json")


def test_a_worker_that_breaks_every_job_gives_up_before_it_empties_the_queue(box: Box) -> None:
    def transcribe(_: Work) -> Transcript:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    for _ in range(10):
        box.submit()
    assert box.runner(transcribe).work() == 2 * MOST_BROKEN + 1  # two tries each, and the first of one more
    assert "in a row" in box.reasons[0]
    assert box.store.backlog().queued_jobs == 10 - MOST_BROKEN


def test_jobs_that_are_deleted_while_they_run_do_not_count_as_broken(box: Box) -> None:
    def transcribe(work: Work) -> Transcript:
        box.store.delete(work.job_id)
        raise FileNotFoundError("its folder is gone")

    for _ in range(5):
        box.submit()
    assert box.runner(transcribe).work() == 5
    assert box.reasons == []


def test_recordings_that_are_gone_are_not_the_workers_fault(box: Box) -> None:
    jobs = [box.submit() for _ in range(MOST_BROKEN + 1)]
    for job in jobs:
        box.files.delete(job.input_key)
    box.runner(transcript).work()
    assert box.reasons == []
    assert {(error := box.store.get(job.id).error) and error.code for job in jobs} == {"input_lost"}


def test_a_file_store_that_is_unmounted_fails_no_job(box: Box, tmp_path: Path) -> None:
    jobs = [box.submit() for _ in range(MOST_BROKEN + 1)]
    (tmp_path / "files").rename(tmp_path / "aside")
    (tmp_path / "files").mkdir()
    box.runner(transcript).work()
    (tmp_path / "files").rmdir()
    (tmp_path / "aside").rename(tmp_path / "files")
    assert {(box.store.get(job.id).state, box.store.get(job.id).failures) for job in jobs} == {(JobState.QUEUED, 0)}
    assert box.runner(transcript).work() == len(jobs)
    assert {box.store.get(job.id).state for job in jobs} == {JobState.SUCCEEDED}


@pytest.mark.parametrize("away", [DiskFull, StorageUnavailable, BucketDenied])
def test_a_file_store_that_is_full_or_away_hands_the_job_back_and_pauses_claims(box: Box, away: type[OurError]) -> None:
    def transcribe(_: Work) -> Transcript:
        raise away("for a while")

    job = box.submit()
    assert box.runner(transcribe).work() == 1
    back = box.store.get(job.id)
    assert (back.state, back.losses, back.error) == (JobState.QUEUED, 0, None)


def test_a_job_whose_end_redis_has_forgotten_ends_once_more_at_its_first_try(box: Box) -> None:
    """Its attempts begin at 1 again when Redis is restored from an older copy, and the result of that name is there."""
    job = box.submit()
    box.files.write_once(f"jobs/{job.id}/transcript-1.json", b"of the life that is forgotten")
    assert box.runner(transcript).work() == 1
    done = box.store.get(job.id)
    assert (done.state, done.attempt, done.failures) == (JobState.SUCCEEDED, 1, 0)
    assert Transcript.model_validate_json(read_result(box.files.read, done)).run.attempt == 1
