"""The runner between a real Redis, a real ffmpeg and an engine of the test's own."""

import threading
from pathlib import Path
from typing import Any

import pytest

from core.errors import InvalidRequest, OutOfMemory, StoreUnavailable
from core.figures import Figures
from core.file_store import result_key
from core.job import Job, JobState, Stage
from core.job_store import JobStore
from core.transcript import Notice, Transcript
from tests.conftest import RedisServer, wait_for
from tests.worker.box import Box, in_thread, transcript, wav
from worker.work import DIARIZATION_FAILED, Work


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


def test_the_stages_of_runner_and_engine_are_counted_with_the_commit(box: Box) -> None:
    def transcribe(work: Work) -> Transcript:
        done = transcript(work)
        return done.model_copy(update={"run": done.run.model_copy(update={"stages_s": {"asr": 2.0}})})

    box.submit()
    box.runner(transcribe).work()
    totals = Figures(box.redis).snapshot().totals
    assert (totals["stages:decode"], totals["stages:asr"], totals["stage_ms:asr"]) == (1, 1, 2000)
    assert 0 < totals["stage_ms:decode"] < 10_000


def test_one_wake_up_works_the_queue_empty(box: Box) -> None:
    for _ in range(3):
        box.submit()
    assert box.runner(transcript).work() == 3
    assert box.runner(transcript).work() == 0


def test_only_the_clip_is_decoded(box: Box) -> None:
    lengths: list[int] = []
    box.submit(wav(4.0), duration_s=4.0, clip_start=1.0, clip_end=2.5)
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
        box.files.read(f"jobs/{job.id}/transcript-1.json")


def test_a_cancel_that_comes_with_the_commit_wins_and_leaves_no_result(box: Box) -> None:
    class Cancelling(JobStore):
        def succeed(self, job: Job, **options: Any) -> JobState | None:
            self.cancel(job.id)
            return super().succeed(job, **options)

    box.store = Cancelling(box.redis)
    job = box.submit()
    box.runner(transcript).work()
    assert box.store.get(job.id).state == JobState.CANCELLED
    with pytest.raises(FileNotFoundError):
        box.files.read(result_key(job.id, 1))


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


def without_speakers(work: Work) -> Transcript:
    return transcript(work, Notice(code=DIARIZATION_FAILED, message="m"))


def test_without_its_speakers_a_job_succeeds_with_a_warning(box: Box) -> None:
    job = box.submit()
    assert box.runner(without_speakers).work() == 1
    done = box.store.get(job.id)
    assert (done.state, [warning.code for warning in done.warnings]) == (JobState.SUCCEEDED, [DIARIZATION_FAILED])


def test_if_that_was_asked_for_it_is_tried_again_and_fails_with_its_words_attached(box: Box) -> None:
    job = box.submit(on_diarization_failure="fail")
    assert box.runner(without_speakers).work() == 2
    failed = box.store.get(job.id)
    assert failed.error is not None
    assert (failed.state, failed.error.code, failed.losses) == (JobState.FAILED, "engine_failed", 0)
    assert [warning.code for warning in failed.warnings] == [DIARIZATION_FAILED]
    assert failed.result_key == result_key(job.id, 2)
    assert Transcript.model_validate_json(box.files.read(failed.result_key)).run.attempt == 2
    with pytest.raises(FileNotFoundError):
        box.files.read(result_key(job.id, 1))


def test_a_file_without_audio_fails_with_what_to_do(box: Box) -> None:
    job = box.submit(b"this is no recording")
    box.runner(transcript).work()
    failed = box.store.get(job.id)
    assert failed.error is not None
    assert failed.error.code == "invalid_media"


def test_a_recording_longer_than_its_time_stamps_say_is_refused(box: Box) -> None:
    job = box.submit(wav(20.0))
    box.runner(transcript).work()
    failed = box.store.get(job.id)
    assert failed.error is not None
    assert failed.error.code == "invalid_media"


def test_threads_hold_as_much_audio_as_fits_and_never_more(box: Box) -> None:
    held_s: list[float] = []
    two = threading.Event()

    def transcribe(work: Work) -> Transcript:
        held_s.append(box.leases.audio_in_flight_s())
        if held_s[-1] >= 2.0:
            two.set()
        assert two.wait(10)
        threading.Event().wait(0.02)  # for a third to come
        return transcript(work)

    for _ in range(6):
        box.submit()
    runner = box.runner(transcribe, audio_s=2.0)
    for thread in [in_thread(runner.work) for _ in range(6)]:
        thread.join()
    runner.work()
    assert max(held_s) == 2.0
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


def test_an_attempt_that_lost_its_job_never_speaks_for_its_successor(box: Box) -> None:
    """Both in this process: the first attempt still runs when the second has begun."""
    first_may_end, second_started = threading.Event(), threading.Event()

    def transcribe(work: Work) -> Transcript:
        if work.attempt == 1:
            box.store.release(box.store.get(work.job_id))
            assert second_started.wait(5)
            assert first_may_end.wait(5)
        else:
            second_started.set()
            wait_for(lambda: len(box.leases.in_flight()) == 1, "the first attempt to be gone")
            work.report(Stage.ASR, 0.5)
            wait_for(lambda: box.store.get(work.job_id).stage == Stage.ASR, "the second attempt's report")
        return transcript(work)

    job = box.submit()
    runner = box.runner(transcribe)
    threads = [in_thread(runner.work)]
    wait_for(lambda: (box.store.get(job.id).attempt, box.store.get(job.id).state) == (1, JobState.QUEUED), "the hand-back")
    threads.append(in_thread(runner.work))
    assert second_started.wait(5)
    first_may_end.set()
    for thread in threads:
        thread.join(timeout=10)
    done = box.store.get(job.id)
    assert (done.state, done.attempt, done.losses) == (JobState.SUCCEEDED, 2, 0)
    with box.files.local_copy(done.result_key or "") as result:
        assert [path.name for path in result.parent.glob("transcript-*")] == ["transcript-2.json"]


def test_a_claim_whose_reply_was_lost_gives_the_same_job_again(box: Box) -> None:
    class LosingStore(JobStore):
        lost = False

        def claim(self, *arguments: Any, **options: Any) -> Job | None:
            job = super().claim(*arguments, **options)
            if not self.lost:
                self.lost = True
                raise StoreUnavailable("the reply was lost")
            return job

    first, second = box.submit(), box.submit()
    box.store = LosingStore(box.redis)
    assert box.runner(transcript).work() == 2
    assert {box.store.get(job.id).attempt for job in (first, second)} == {1}


def test_decoding_counts_as_progress_for_the_watchdog(box: Box) -> None:
    """It is bounded by itself, however long a recording is: what it looks up between its pieces are steps beside its two reports."""
    steps: list[int] = []

    def counted(work: Work) -> Transcript:
        steps.extend(held.steps for held in box.leases.in_flight())
        return transcript(work)

    box.submit()
    box.runner(counted).work()
    assert len(steps) == 1
    assert steps[0] > 2
