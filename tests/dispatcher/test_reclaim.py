import time
from collections.abc import Iterator
from uuid import uuid4

import pytest

from core.errors import StoreUnavailable
from core.job import JobOptions, JobState, NewJob
from core.job_store import JobStore, Runner
from core.redis_steps import connect
from dispatcher.reclaim import Reclaimer
from dispatcher.sweep import MOST_AT_ONCE, Sweeper
from tests.conftest import RedisServer

LEASE_S = 60.0


class OldRedis(JobStore):
    """A store whose Redis has been up for long, and whose clock the test may turn."""

    turned_s = 0.0

    def uptime_s(self) -> float:
        return 1e6

    def clock_s(self) -> float:
        return super().clock_s() + self.turned_s


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(redis_url: str) -> Iterator[OldRedis]:
    redis = connect(redis_url)
    yield OldRedis(redis)
    redis.close()


def queued(store: JobStore) -> str:
    job_id = uuid4().hex
    job = NewJob(
        id=job_id, duration_s=1, filename="a", input_key=f"jobs/{job_id}/input", input_bytes=1, input_sha256="0", options=JobOptions()
    )
    return store.submit(job, max_queued=1000)[0].id


def running(store: JobStore, *, lease_s: float) -> str:
    job_id = queued(store)
    assert store.claim(Runner("slot", "boot"), lease_s=lease_s, fits_s=1e6)
    return job_id


def reclaimer(store: JobStore, clock: Clock) -> Reclaimer:
    return Reclaimer(store, lease_s=LEASE_S, max_losses=3, clock=clock)


def test_an_expired_lease_is_taken_back(store: OldRedis) -> None:
    job_id = running(store, lease_s=0)
    reclaimer(store, Clock()).step()
    assert store.get(job_id).state == JobState.QUEUED


def test_nothing_is_taken_back_for_one_lease_after_a_restart_of_redis(redis_url: str) -> None:
    with connect(redis_url) as redis:
        fresh = JobStore(redis)
        assert fresh.uptime_s() < LEASE_S * 10
        job_id = running(fresh, lease_s=0)
        Reclaimer(fresh, lease_s=LEASE_S * 1000, max_losses=3).step()
        assert fresh.get(job_id).state == JobState.RUNNING


@pytest.mark.parametrize("turned_s", [3600.0, -3600.0])
def test_nothing_is_taken_back_for_one_lease_after_the_clock_jumped(store: OldRedis, turned_s: float) -> None:
    job_id = running(store, lease_s=0)
    clock = Clock()
    reclaim = reclaimer(store, clock)
    store.turned_s = turned_s
    calm = reclaimer(store, Clock())
    reclaim._offset_s = store.clock_s() - turned_s - clock.now
    reclaim.step()
    assert store.get(job_id).state == JobState.RUNNING
    calm.step()
    assert store.get(job_id).state == JobState.QUEUED


def test_nothing_is_taken_back_for_one_lease_after_redis_was_away(redis_server: RedisServer) -> None:
    with connect(redis_server.url, retries=0) as redis:
        store, clock = OldRedis(redis), Clock()
        job_id = running(store, lease_s=0)
        reclaim = reclaimer(store, clock)
        redis_server.stop()
        with pytest.raises(StoreUnavailable):
            reclaim.step()
        redis_server.start()
        clock.now += LEASE_S - 1
        reclaim._offset_s = None
        reclaim.step()
        assert store.get(job_id).state == JobState.RUNNING
        clock.now += 2
        reclaim._offset_s = None
        reclaim.step()
        assert store.get(job_id).state == JobState.QUEUED


def test_the_sweep_wakes_only_for_jobs_that_have_no_wake_up(store: OldRedis) -> None:
    for _ in range(3):
        queued(store)
    sent: list[int] = []

    def wake(times: int) -> bool:
        sent.append(times)
        return True

    Sweeper(store, lambda: 1, wake).step()
    Sweeper(store, lambda: 3, wake).step()
    Sweeper(store, lambda: 9, wake).step()
    assert sent == [2]


def test_the_sweep_sends_a_bounded_number_at_once(store: OldRedis) -> None:
    for _ in range(MOST_AT_ONCE + 5):
        queued(store)
    sent: list[int] = []
    Sweeper(store, lambda: 0, lambda times: bool(sent.append(times)) or True).step()
    assert sent == [MOST_AT_ONCE]


def test_one_dispatcher_leads_and_a_standby_follows_when_it_falls_silent(store: OldRedis) -> None:
    assert store.lead("first", ttl_s=0.2)
    assert not store.lead("second", ttl_s=0.2)
    assert store.lead("first", ttl_s=0.01)
    time.sleep(0.05)
    assert store.lead("second", ttl_s=1)
