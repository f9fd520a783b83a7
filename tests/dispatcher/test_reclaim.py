import threading
import time
from collections.abc import Iterator
from uuid import uuid4

import pytest

from core.job import JobOptions, JobState, NewJob
from core.job_store import JobStore, Runner
from core.redis_steps import connect
from dispatcher.loops import run
from dispatcher.reclaim import Reclaimer
from dispatcher.sweep import MOST_AT_ONCE, Sweeper
from tests.conftest import RedisServer, wait_for

LEASE_S = 60.0


class OldRedis(JobStore):
    """A store whose Redis has been up for long, and whose clock the test may turn."""

    turned_s = 0.0

    def uptime_s(self) -> float:
        return 1e6

    def clock_s(self) -> float:
        return super().clock_s() + self.turned_s


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


class Leader:
    """A reclaimer that steps once a second by a clock of the test's own, as the dispatcher's loop does."""

    def __init__(self, store: OldRedis) -> None:
        self.store, self.now = store, 1000.0
        self.reclaimer = Reclaimer(store, lease_s=LEASE_S, max_losses=3, clock=lambda: self.now)

    def run(self, seconds: float) -> None:
        """Redis' clock goes along with ours."""
        for _ in range(round(seconds)):
            self.now += 1
            self.store.turned_s += 1
            self.reclaimer.step()


@pytest.fixture
def leader(store: OldRedis) -> Leader:
    """One that has led for long enough to trust what it sees."""
    led = Leader(store)
    led.run(LEASE_S + 2)
    return led


def test_an_expired_lease_is_taken_back(store: OldRedis, leader: Leader) -> None:
    job_id = running(store, lease_s=0)
    leader.run(1)
    assert store.get(job_id).state == JobState.QUEUED


def test_a_leader_that_has_just_begun_takes_nothing_back_for_one_lease(store: OldRedis) -> None:
    job_id = running(store, lease_s=0)
    leader = Leader(store)
    leader.run(LEASE_S - 1)
    assert store.get(job_id).state == JobState.RUNNING
    leader.run(3)
    assert store.get(job_id).state == JobState.QUEUED


def test_nothing_is_taken_back_for_one_lease_after_a_restart_of_redis(redis_url: str) -> None:
    with connect(redis_url) as redis:
        fresh = JobStore(redis)
        job_id = running(fresh, lease_s=0)
        reclaimer = Reclaimer(fresh, lease_s=fresh.uptime_s() + 1000, max_losses=3)
        reclaimer._got_through = time.monotonic()
        reclaimer.step()
        assert fresh.get(job_id).state == JobState.RUNNING


@pytest.mark.parametrize("turned_s", [3600.0, -3600.0])
def test_nothing_is_taken_back_for_one_lease_after_the_clock_jumped(store: OldRedis, leader: Leader, turned_s: float) -> None:
    job_id = running(store, lease_s=0)
    store.turned_s += turned_s
    leader.run(LEASE_S - 1)
    assert store.get(job_id).state == JobState.RUNNING
    leader.run(3)
    assert store.get(job_id).state == JobState.QUEUED


def test_an_outage_that_another_step_met_counts_too(store: OldRedis, leader: Leader) -> None:
    """The loop stops at its first failing step: the reclaimer only sees that it was not asked for a while."""
    job_id = running(store, lease_s=0)
    leader.now += 30
    store.turned_s += 30
    leader.run(LEASE_S - 1)
    assert store.get(job_id).state == JobState.RUNNING
    leader.run(3)
    assert store.get(job_id).state == JobState.QUEUED


def test_the_loop_outlives_a_redis_that_is_away(redis_server: RedisServer) -> None:
    stop, stepped = threading.Event(), []
    with connect(redis_server.url, retries=0) as redis:
        store = JobStore(redis)
        thread = threading.Thread(
            target=run,
            args=((lambda: stepped.append(store.uptime_s()),),),
            kwargs={"leads": lambda: store.lead("me", ttl_s=5), "went_round": lambda: None, "period_s": 0.02, "stop": stop},
        )
        thread.start()
        wait_for(lambda: stepped, "a step")
        redis_server.stop()
        time.sleep(0.2)
        redis_server.start()
        count = len(stepped)
        wait_for(lambda: len(stepped) > count, "a step after the outage")
        stop.set()
        thread.join()


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
