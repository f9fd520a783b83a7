"""The runner between a real Redis, a real ffmpeg and an engine of the test's own."""

import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from core.errors import InvalidRequest, OutOfMemory
from core.file_store import LocalFileStore, input_key
from core.job import Job, JobOptions, JobState, NewJob, Stage
from core.job_store import JobStore, Runner
from core.media import Ffmpeg
from core.redis_steps import connect
from core.transcript import Models, Notice, Run, Transcript
from tests.conftest import RedisServer, wait_for
from worker.leases import Leases, Rhythm
from worker.runner import JobRunner, Limits
from worker.work import Transcribe, Work

ME = Runner("slot", "boot")
RHYTHM = Rhythm(lease_s=60, heartbeat_s=15, news_s=0.02)


def transcript(work: Work, *warnings: Notice) -> Transcript:
    return Transcript(
        language="en", language_probability=None, duration_s=work.duration_s, segments=(), turns=(), speakers=(), warnings=warnings,
        models=Models(asr="fake", alignment=None, segmentation=None, embedding=None),
        run=Run(runner="local", attempt=work.attempt, device="cpu", stages_s={}, real_time_factor=1.0),
    )  # fmt: skip


class Box:
    """A store, a file store and a runner, as the worker's composition root joins them."""

    def __init__(self, redis_url: str, folder: Path, ffmpeg: str) -> None:
        self.redis = connect(redis_url)
        self.store = JobStore(self.redis)
        self.files = LocalFileStore(folder)
        self.ffmpeg = Ffmpeg(ffmpeg)
        self.leases = Leases(self.store, RHYTHM, lambda _: None)
        self.leases.start()

    def runner(self, transcribe: Transcribe, *, audio_s: float = 3600) -> JobRunner:
        limits = Limits(lease_s=60, max_audio_in_flight_s=audio_s, max_failures=2)
        return JobRunner(self.store, self.files, self.ffmpeg, transcribe, self.leases, ME, limits)

    def submit(self, content: bytes | None = None, **options: Any) -> Job:
        job_id = uuid4().hex
        stored = self.files.write(input_key(job_id), wav(1.0) if content is None else content)
        job = NewJob(
            id=job_id, duration_s=1.0, filename="a.wav", input_key=stored.key, input_bytes=stored.bytes, input_sha256=stored.sha256,
            options=JobOptions(**options),
        )  # fmt: skip
        return self.store.submit(job, max_queued=100)[0]

    def close(self) -> None:
        self.leases.stop()
        self.redis.close()


@pytest.fixture
def box(redis_url: str, tmp_path: Path, ffmpeg: str) -> Iterator[Box]:
    opened = Box(redis_url, tmp_path / "files", ffmpeg)
    yield opened
    opened.close()


def wav(seconds: float) -> bytes:
    samples = int(seconds * 16000)
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + 2 * samples, b"WAVE", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16, b"data", 2 * samples
    )
    return header + bytes(2 * samples)


def in_thread(act: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_a_job_is_decoded_transcribed_and_committed(box: Box) -> None:
    seen: list[Work] = []

    def transcribe(work: Work) -> Transcript:
        seen.append(work)
        return transcript(work, Notice(code="c", message="m"))

    job = box.submit()
    assert box.runner(transcribe).work() == 1
    done = box.store.get(job.id)
    assert (done.state, done.warnings) == (JobState.SUCCEEDED, (Notice(code="c", message="m"),))
    assert len(seen[0].audio) == 16000 * 4
    assert done.result_key is not None
    assert Transcript.model_validate_json(box.files.read(done.result_key)).run.attempt == 1


def test_one_wake_up_works_the_queue_empty(box: Box) -> None:
    for _ in range(3):
        box.submit()
    assert box.runner(transcript).work() == 3
    assert box.runner(transcript).work() == 0


def test_only_the_clip_is_decoded(box: Box) -> None:
    lengths: list[int] = []
    box.submit(wav(4.0), clip_start=1.0, clip_end=2.5)
    box.runner(lambda work: lengths.append(len(work.audio) // 4) or transcript(work)).work()
    assert lengths == [24000]


def test_progress_and_stage_are_live_in_the_record(box: Box) -> None:
    go = threading.Event()

    def transcribe(work: Work) -> Transcript:
        work.report(Stage.ASR, 0.5)
        assert go.wait(5)
        return transcript(work)

    job = box.submit()
    thread = in_thread(box.runner(transcribe).work)
    wait_for(lambda: box.store.get(job.id).stage == Stage.ASR, "the stage")
    assert box.store.get(job.id).progress == pytest.approx(0.525)
    go.set()
    thread.join()


def test_a_running_job_is_cancelled_between_batches_and_the_next_one_runs(box: Box) -> None:
    started = threading.Event()

    def transcribe(work: Work) -> Transcript:
        if work.options.initial_prompt == "endless":
            started.set()
            while True:
                work.check()
        return transcript(work)

    endless, after = box.submit(initial_prompt="endless"), box.submit()
    thread = in_thread(box.runner(transcribe).work)
    assert started.wait(5)
    box.store.cancel(endless.id)
    thread.join(timeout=10)
    assert box.store.get(endless.id).state == JobState.CANCELLED
    assert box.store.get(after.id).state == JobState.SUCCEEDED


def test_a_runner_that_lost_its_lease_leaves_no_result(box: Box) -> None:
    def transcribe(work: Work) -> Transcript:
        box.store.release(box.store.get(work.job_id))
        return transcript(work)

    job = box.submit()
    runner = box.runner(lambda work: runner.stop_claiming() or transcribe(work))  # type: ignore[func-returns-value]
    runner.work()
    assert box.store.get(job.id).state == JobState.QUEUED
    with pytest.raises(FileNotFoundError):
        box.files.read(f"jobs/{job.id}/attempts/1/transcript.json")


def test_the_callers_error_fails_the_job_at_once_with_its_message(box: Box) -> None:
    def transcribe(_: Work) -> Transcript:
        raise InvalidRequest("this model knows English only")

    job = box.submit()
    assert box.runner(transcribe).work() == 1
    failed = box.store.get(job.id)
    assert failed.error is not None
    assert (failed.state, failed.error.message) == (JobState.FAILED, "this model knows English only")


def test_our_error_is_tried_again_and_says_nothing_internal(box: Box) -> None:
    def transcribe(_: Work) -> Transcript:
        raise RuntimeError("secret detail")

    job = box.submit()
    assert box.runner(transcribe).work() == 2
    failed = box.store.get(job.id)
    assert failed.error is not None
    assert failed.error.code == "engine_failed"
    assert "secret" not in failed.error.message
    assert failed.losses == 0


def test_a_job_that_breaks_once_succeeds_the_second_time(box: Box) -> None:
    def transcribe(work: Work) -> Transcript:
        if work.attempt == 1:
            raise OutOfMemory("CUDA out of memory")
        return transcript(work)

    job = box.submit()
    box.runner(transcribe).work()
    assert box.store.get(job.id).state == JobState.SUCCEEDED


def test_a_retry_finds_what_finished_stages_kept(box: Box) -> None:
    def transcribe(work: Work) -> Transcript:
        if work.attempt == 1:
            work.keep(Stage.ASR, b"words")
            raise RuntimeError("diarization broke")
        assert work.kept == {Stage.ASR: b"words"}
        return transcript(work)

    job = box.submit()
    box.runner(transcribe).work()
    assert box.store.get(job.id).state == JobState.SUCCEEDED


def test_a_file_without_audio_fails_with_what_to_do(box: Box) -> None:
    job = box.submit(b"this is no recording")
    box.runner(transcript).work()
    failed = box.store.get(job.id)
    assert failed.error is not None
    assert failed.error.code == "invalid_media"


def test_two_threads_never_hold_more_audio_than_fits(box: Box) -> None:
    flying, most = [0], [0]
    lock = threading.Lock()

    def transcribe(work: Work) -> Transcript:
        with lock:
            flying[0] += 1
            most[0] = max(most[0], flying[0])
        threading.Event().wait(0.05)
        with lock:
            flying[0] -= 1
        return transcript(work)

    for _ in range(6):
        box.submit()
    runner = box.runner(transcribe, audio_s=2.0)
    for thread in [in_thread(runner.work) for _ in range(6)]:
        thread.join()
    while runner.work():
        pass
    assert most[0] == 2
    assert {job.state for job in box.store.page()} == {JobState.SUCCEEDED}


def test_a_stopping_runner_hands_its_jobs_back_without_a_loss(box: Box) -> None:
    started, go = threading.Event(), threading.Event()

    def transcribe(work: Work) -> Transcript:
        started.set()
        assert go.wait(5)
        work.check()
        return transcript(work)

    job = box.submit()
    runner = box.runner(transcribe)
    thread = in_thread(runner.work)
    assert started.wait(5)
    runner.stop_claiming()
    runner.release_all()
    go.set()
    thread.join()
    back = box.store.get(job.id)
    assert (back.state, back.losses) == (JobState.QUEUED, 0)


def test_a_finished_job_waits_for_a_redis_that_is_away(redis_server: RedisServer, tmp_path: Path, ffmpeg: str) -> None:
    box = Box(redis_server.url, tmp_path / "files", ffmpeg)

    def transcribe(work: Work) -> Transcript:
        redis_server.stop()
        threading.Timer(1.0, redis_server.start).start()
        return transcript(work)

    job = box.submit()
    box.runner(transcribe).work()
    done = box.store.get(job.id)
    assert (done.state, done.attempt) == (JobState.SUCCEEDED, 1)
    box.close()
