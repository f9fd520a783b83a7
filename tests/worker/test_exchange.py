"""Whose an attempt in a bucket is, by the contract of file stores: a folder keeps it as a bucket does (tests/core/test_file_store.py)."""

from pathlib import Path

import pytest

from core.burst import REVOKED, BundleJob
from core.errors import LeaseLost, OurError, StorageUnavailable
from core.file_store import FileStore, claim_key, input_key, result_key
from core.job import JobOptions, Stage
from core.local_file_store import LocalFileStore
from core.media import Ffmpeg
from tests.worker.box import transcript, wav
from worker.attempt import Recordings
from worker.exchange import BucketExchange, CallExchange
from worker.work import Work

JOB = BundleJob(
    id="job", attempt=4, options=JobOptions(), duration_s=1.0, input_key=input_key("job"), products={"asr": "jobs/job/products/1-asr.json"}
)


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    return LocalFileStore(tmp_path)


def exchange(files: FileStore, ffmpeg: str, call_id: str = "fc-1") -> BucketExchange:
    return BucketExchange(call_id, Recordings(files, Ffmpeg(ffmpeg)))


def result(score: float = 1.0) -> object:
    work = Work("job", 4, JobOptions(), b"", 0.0, 1.0, {}, lambda *_: None, lambda *_: None, lambda: None)
    made = transcript(work)
    return made.model_copy(update={"run": made.run.model_copy(update={"real_time_factor": score})})


def test_a_call_that_is_run_again_holds_its_claim(files: FileStore, ffmpeg: str) -> None:
    exchange(files, ffmpeg).claim(JOB)
    exchange(files, ffmpeg).claim(JOB)
    assert exchange(files, ffmpeg).is_ours(JOB)


def test_another_call_does_not_get_the_attempt(files: FileStore, ffmpeg: str) -> None:
    exchange(files, ffmpeg).claim(JOB)
    with pytest.raises(LeaseLost):
        exchange(files, ffmpeg, "fc-2").claim(JOB)


def test_another_attempt_of_the_job_is_free(files: FileStore, ffmpeg: str) -> None:
    exchange(files, ffmpeg).claim(JOB)
    exchange(files, ffmpeg, "fc-2").claim(JOB.model_copy(update={"attempt": 5}))


def test_an_attempt_that_was_taken_back_before_it_began_does_not_begin(files: FileStore, ffmpeg: str) -> None:
    files.write(claim_key("job", 4), REVOKED)
    with pytest.raises(LeaseLost):
        exchange(files, ffmpeg).claim(JOB)


@pytest.mark.parametrize("how", ["written over", "deleted with its job"])
def test_an_attempt_that_is_taken_back_leaves_no_result(files: FileStore, ffmpeg: str, how: str) -> None:
    ours = exchange(files, ffmpeg)
    ours.claim(JOB)
    if how == "written over":
        files.write(claim_key("job", 4), REVOKED)
    else:
        files.delete_job("job")
    assert not ours.is_ours(JOB)
    with pytest.raises(LeaseLost):
        ours.finish(JOB, result())  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        files.read(result_key("job", 4))


def test_of_two_runs_at_once_both_tell_of_the_result_that_was_first(files: FileStore, ffmpeg: str) -> None:
    first, second = exchange(files, ffmpeg), exchange(files, ffmpeg)
    for run in (first, second):
        run.claim(JOB)
    said = [first.finish(JOB, result(1.0)), second.finish(JOB, result(2.0))]  # type: ignore[arg-type]
    assert said[0]["sha256"] == said[1]["sha256"]
    assert first.finished(JOB) == said[1]


def test_a_bucket_that_is_away_for_a_moment_takes_nothing_back(tmp_path: Path, ffmpeg: str) -> None:
    class Away(LocalFileStore):
        def read(self, key: str) -> bytes:
            raise StorageUnavailable(key)

    assert exchange(Away(tmp_path), ffmpeg).is_ours(JOB)


def test_what_finished_stages_kept_is_read_and_written_where_the_next_attempt_looks(files: FileStore, ffmpeg: str) -> None:
    files.write(JOB.products["asr"], b"words")
    ours = exchange(files, ffmpeg)
    assert ours.kept(JOB) == {Stage.ASR: b"words"}
    stored = ours.keep(JOB, Stage.DIARIZATION, b"turns")
    assert stored is not None
    assert files.read(stored.key) == b"turns"


def test_a_recording_in_the_call_is_the_clip_itself(ffmpeg: str, tmp_path: Path) -> None:
    path = tmp_path / "four.wav"
    path.write_bytes(wav(4.0))
    clip = Ffmpeg(ffmpeg).flac(path, start_s=1.0, end_s=2.5)
    job = BundleJob(id="job", attempt=1, options=JobOptions(clip_start=1.0, clip_end=2.5), duration_s=4.0)
    assert len(CallExchange({"job": clip}, Ffmpeg(ffmpeg)).audio(job, lambda: None)) == 1.5 * 16000 * 4


def test_a_recording_that_did_not_come_is_our_error(ffmpeg: str) -> None:
    with pytest.raises(OurError):
        CallExchange({}, Ffmpeg(ffmpeg)).audio(JOB, lambda: None)
