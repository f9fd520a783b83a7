"""The watchdog over real leases; the test says how much time has passed, and nothing ends this process."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.errors import InvalidRequest
from core.job import Job, JobState, Stage
from core.transcript import Transcript
from tests.conftest import RedisServer, wait_for
from tests.worker.box import Box, in_thread, transcript
from worker.leases import Held
from worker.runner import JobRunner
from worker.watchdog import LONGEST_PERIOD_S, Bounds, Watchdog
from worker.work import Work

BOUNDS = Bounds(stalled_after_s=12.0, floor_s=30.0, factor=2.0)


class Watched:
    """A worker whose jobs run until they are let go."""

    def __init__(self, box: Box) -> None:
        self.box, self.ended, self.go = box, threading.Event(), threading.Event()
        self.runner: JobRunner = box.runner(self.transcribe)
        self.watchdog = Watchdog(box.leases, self.runner, BOUNDS, end=self.ended.set)
        self.threads: list[threading.Thread] = []
        self.error: Exception | None = None  # that jobs end with

    def transcribe(self, work: Work) -> Transcript:
        work.report(Stage.ASR, 0.5)
        assert self.go.wait(20)
        if self.error:
            raise self.error
        return transcript(work)

    def run(self, **options: Any) -> Job:
        job, before = self.box.submit(**options), len(self.box.leases.in_flight())
        self.threads.append(in_thread(self.runner.work))
        wait_for(lambda: len(self.box.leases.in_flight()) > before and self.held(job).stage == Stage.ASR, "the job to run")
        return job

    def held(self, job: Job) -> Held:
        return next(held for held in self.box.leases.in_flight() if held.job.id == job.id)

    def look(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.watchdog.look(1.0)

    def step(self, job: Job) -> None:
        self.held(job).report(Stage.ASR, 0.6)

    def close(self) -> None:
        self.runner.stop_claiming()
        self.go.set()
        for thread in self.threads:
            thread.join()


@pytest.fixture
def watched(box: Box) -> Iterator[Watched]:
    running = Watched(box)
    yield running
    running.close()


def test_a_job_without_progress_ends_the_process_and_the_others_are_handed_back_unharmed(watched: Watched) -> None:
    hanging, healthy = watched.run(), watched.run()
    for _ in range(2):
        watched.look(10)
        watched.step(healthy)
    assert watched.ended.is_set()
    kept, back = watched.box.store.get(hanging.id), watched.box.store.get(healthy.id)
    assert (kept.state, kept.stage) == (JobState.RUNNING, Stage.ASR)  # its successor in the slot counts the loss
    assert (back.state, back.losses) == (JobState.QUEUED, 0)
    assert watched.runner.work() == 0, "nothing more is claimed"


def test_a_job_that_goes_on_however_slowly_is_let_be(watched: Watched) -> None:
    job = watched.run()
    for _ in range(20):
        watched.look(11)
        watched.step(job)
    assert not watched.ended.is_set()


def test_a_process_that_was_frozen_has_not_hung(watched: Watched) -> None:
    watched.run()
    watched.look(1)
    watched.watchdog.look(3600.0)
    assert BOUNDS.stalled_after_s > LONGEST_PERIOD_S
    assert not watched.ended.is_set()


def test_past_its_deadline_a_job_is_ended_though_it_goes_on(watched: Watched) -> None:
    quick = watched.run(duration_s=1.0)
    watched.look(2)
    watched.held(quick).report(Stage.COMMIT, 1.0)
    watched.close()  # 1 s of audio in 2 s: half of real time
    watched.threads.clear()
    watched.go.clear()
    watched.runner = watched.box.runner(watched.transcribe)
    slow = watched.run(duration_s=5.0)
    for _ in range(49):  # 30 s and twice the 10 s that it takes at this speed
        watched.look(1)
        watched.step(slow)
    assert not watched.ended.is_set()
    watched.look(2)
    assert watched.ended.is_set()


def test_a_job_that_did_not_end_well_tells_nothing_of_the_speed(watched: Watched) -> None:
    watched.run(duration_s=1.0)
    watched.look(2)
    watched.error = InvalidRequest("this model knows English only")
    watched.close()
    watched.threads.clear()
    watched.go.clear()
    watched.runner = watched.box.runner(watched.transcribe)
    slow = watched.run(duration_s=5.0)
    for _ in range(80):
        watched.look(1)
        watched.step(slow)
    assert not watched.ended.is_set()


def test_time_that_other_jobs_had_does_not_count(watched: Watched) -> None:
    quick = watched.run(duration_s=1.0)
    watched.look(2)
    watched.held(quick).report(Stage.COMMIT, 1.0)
    watched.close()
    watched.threads.clear()
    watched.go.clear()
    watched.runner = watched.box.runner(watched.transcribe)
    jobs = [watched.run(duration_s=5.0) for _ in range(4)]
    for _ in range(150):
        watched.look(1)
        for job in jobs:
            watched.step(job)
    assert not watched.ended.is_set()


def test_while_redis_is_away_nothing_counts_and_nothing_ends(redis_server: RedisServer, tmp_path: Path, ffmpeg: str) -> None:
    box = Box(redis_server.url, tmp_path / "files", ffmpeg)
    watched = Watched(box)
    hanging, healthy = watched.run(), watched.run()
    watched.look(10)
    redis_server.stop()
    wait_for(lambda: box.leases.is_redis_away, "the heartbeat to miss it")
    watched.look(1000)
    assert not watched.ended.is_set()
    redis_server.start()
    wait_for(lambda: not box.leases.is_redis_away, "the heartbeat to be back")
    watched.step(healthy)
    watched.look(4)
    assert watched.ended.is_set()
    assert [box.store.get(job.id).state for job in (hanging, healthy)] == [JobState.RUNNING, JobState.QUEUED]
    watched.close()
    box.close()
