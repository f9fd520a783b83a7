"""Fetches whose dispatcher is stopped, killed or overtaken, or whose Redis is away: nothing is lost, nothing done twice."""

import signal
import time
from pathlib import Path

import pytest

from core.errors import StoreUnavailable
from core.job import JobState
from core.leased import Lease
from tests.conftest import RedisServer, wait_for
from tests.dispatcher.fetch_box import TALK, Dam, FetchBox
from tests.dispatcher.process import running_dispatcher
from tests.dispatcher.source_server import SourceServer


def test_a_fetcher_that_stops_hands_its_fetch_back_at_once(box: FetchBox, server: SourceServer, dam: Dam) -> None:
    first, job_id = box.fetcher("first"), box.submit(server.url("/slow.wav"))
    first.step()
    assert dam.is_reached.wait(5)
    first.close()
    assert box.left() == []
    dam.opened.set()
    job = box.settled(box.fetcher("second"), job_id)
    assert (job.state, job.fetch, job.fetch_failures) == (JobState.QUEUED, 2, 0)
    assert box.redis.hget(f"spillway:job:{job_id}", "fetch_losses") == "0"


def test_a_fetcher_that_fell_silent_is_overtaken_and_its_work_dropped(box: FetchBox, server: SourceServer, dam: Dam) -> None:
    silent, job_id = box.fetcher("silent", lease_s=0.1), box.submit(server.url("/slow.wav"))
    silent.step()
    assert dam.is_reached.wait(5)
    time.sleep(0.15)  # its lease, by Redis' own clock
    next_one = box.fetcher("next")
    next_one.step()
    assert box.jobs.get(job_id).fetch == 2
    dam.opened.set()
    job = box.settled(next_one, job_id)
    box.stepped(silent, lambda: not silent._flights, "the first to hear of it")
    assert (job.state, box.jobs.backlog().queued_jobs) == (JobState.QUEUED, 1)
    wait_for(lambda: box.left() == [job.input_key], "what came too late to be forgotten")


def test_what_was_fetched_while_redis_was_away_is_not_lost(redis_server: RedisServer, tmp_path: Path, ffmpeg: str) -> None:
    box, dam = FetchBox(redis_server.url, tmp_path / "files", ffmpeg), Dam()
    with SourceServer({"/slow.wav": dam}) as server:
        fetcher, job_id = box.fetcher(), box.submit(server.url("/slow.wav"))
        fetcher.step()
        assert dam.is_reached.wait(5)
        redis_server.stop()
        dam.opened.set()
        wait_for(lambda: all(flight.is_over.is_set() for flight in fetcher._flights), "the fetch to end")
        with pytest.raises(StoreUnavailable):
            fetcher.step()
        redis_server.start()
        assert box.settled(fetcher, job_id).state == JobState.QUEUED
        assert len(server.asked) == 1
    box.close()


def test_a_dispatcher_killed_in_the_middle_of_a_fetch_costs_a_lease_and_doubles_nothing(
    box: FetchBox, server: SourceServer, dam: Dam, redis_url: str, ffmpeg: str
) -> None:
    job_id = box.submit(server.url("/slow.wav"))
    with running_dispatcher(redis_url, box.folder, ffmpeg) as first:
        assert dam.is_reached.wait(30)
        first.kill()
    box.redis.delete("spillway:leader")  # its term ends 10 s later, which is not what is looked at here
    dam.opened.set()
    with running_dispatcher(redis_url, box.folder, ffmpeg) as second:
        wait_for(lambda: box.jobs.get(job_id).stage is None, "the job to be pending")
        second.send_signal(signal.SIGTERM)
        assert second.wait(timeout=20) == 0
    job = box.jobs.get(job_id)
    assert (job.state, job.fetch, job.duration_s, len(server.asked)) == (JobState.QUEUED, 2, 20.0, 2)
    assert box.jobs.backlog().queued_jobs == 1
    assert box.files.read(job.input_key) == TALK


def test_a_dispatcher_that_is_told_to_stop_does_not_wait_for_a_slow_server(
    box: FetchBox, server: SourceServer, dam: Dam, redis_url: str, ffmpeg: str
) -> None:
    job_id = box.submit(server.url("/slow.wav"))
    with running_dispatcher(redis_url, box.folder, ffmpeg) as process:
        assert dam.is_reached.wait(30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    assert box.fetches.claim(Lease("next", 60, 3)) is not None
    assert box.jobs.lead("next", ttl_s=10)
    assert box.jobs.get(job_id).fetch_failures == 0
    assert box.left() == []
