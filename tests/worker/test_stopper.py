"""How the worker ends."""

import threading
from pathlib import Path
from time import monotonic

import pytest

from core.job import JobState, Stage
from core.transcript import Transcript
from tests.conftest import RedisServer, wait_for
from tests.worker.box import Box, in_thread, transcript
from worker.stopper import Stopper
from worker.work import Work


class Stopping:
    """A worker with one job that ends when it is told to, and a stopper that does not end this process."""

    def __init__(self, box: Box, grace_s: float, *, progress: float | None = None) -> None:
        self.progress = progress
        self.go, self.started, self.ended = threading.Event(), threading.Event(), threading.Event()
        self.status: int | None = None
        self.job = box.submit()
        self.runner = box.runner(self.transcribe)
        self.thread = in_thread(self.runner.work)
        self.stopper = Stopper(self.runner, box.leases, grace_s, self.end)
        assert self.started.wait(5)

    def transcribe(self, work: Work) -> Transcript:
        if self.progress is not None:
            work.report(Stage.ASR, self.progress)
        self.started.set()
        assert self.go.wait(10)
        return transcript(work)

    def end(self, status: int) -> None:
        self.status = status
        self.ended.set()

    def close(self) -> None:
        self.runner.stop_claiming()
        self.go.set()
        self.thread.join()


def test_a_stopping_worker_lets_what_is_nearly_done_finish(box: Box) -> None:
    stopping = Stopping(box, grace_s=10)
    stopping.stopper.stop()
    next_one = box.submit()
    stopping.go.set()
    assert stopping.ended.wait(5)
    stopping.thread.join()
    assert (stopping.status, box.store.get(stopping.job.id).state) == (0, JobState.SUCCEEDED)
    assert box.store.get(next_one.id).attempt == 0, "a stopping worker began a job"
    stopping.close()


def test_a_second_signal_hands_back_at_once(box: Box) -> None:
    stopping = Stopping(box, grace_s=60, progress=0.99)  # which may end in time
    stopping.stopper.stop()
    assert not stopping.ended.wait(0.3)
    stopping.stopper.stop()
    assert stopping.ended.wait(5)
    back = box.store.get(stopping.job.id)
    assert (back.state, back.losses) == (JobState.QUEUED, 0)
    stopping.close()


def test_what_cannot_end_in_time_is_handed_back_at_once_and_what_can_ends(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.leases.FIRST_MOMENTS_S", 0.0)
    nearly, hardly = Stopping(box, grace_s=30, progress=0.99), Stopping(box, grace_s=30, progress=0.0001)
    begun = monotonic()
    nearly.stopper.stop()
    wait_for(lambda: box.store.get(hardly.job.id).state == JobState.QUEUED, "the long job to be handed back")
    assert not nearly.ended.is_set()
    nearly.go.set()
    assert nearly.ended.wait(10)
    assert monotonic() - begun < 20, "the grace period was waited for"
    assert box.store.get(nearly.job.id).state == JobState.SUCCEEDED
    back = box.store.get(hardly.job.id)
    assert (back.state, back.losses) == (JobState.QUEUED, 0)
    for stopping in (nearly, hardly):
        stopping.close()


def test_a_worker_stops_although_redis_is_away(redis_server: RedisServer, tmp_path: Path, ffmpeg: str) -> None:
    box = Box(redis_server.url, tmp_path / "files", ffmpeg)
    stopping = Stopping(box, grace_s=0)
    redis_server.stop()
    stopping.stopper.stop()
    assert stopping.ended.wait(30)
    redis_server.start()
    stopping.close()
    box.close()
