"""A bucket for each caller, on a real server and by its clock."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.errors import StoreUnavailable
from core.job_store import JobStore
from core.redis_steps import RedisClient, connect
from core.request_rates import RequestRates
from tests.conftest import free_port


@pytest.fixture
def rates(redis: RedisClient) -> RequestRates:
    return RequestRates(redis)


@pytest.mark.parametrize("per_minute", [1, 7, 30])
def test_a_minutes_worth_may_come_at_once_and_no_more(rates: RequestRates, per_minute: int) -> None:
    waits = [rates.spend("alice", most=per_minute) for _ in range(per_minute + 3)]
    assert [wait for wait in waits if wait == 0] == waits[:per_minute]
    assert all(0 < wait <= 60 / per_minute for wait in waits[per_minute:])


def test_however_many_come_together_the_limit_gets_through(rates: RequestRates) -> None:
    with ThreadPoolExecutor(16) as threads:
        waits = list(threads.map(lambda _: rates.spend("alice", most=30), range(100)))
    assert waits.count(0.0) == 30


def test_a_window_may_be_an_hour(rates: RequestRates, redis: RedisClient) -> None:
    waits = [rates.spend("alice", most=4, window_s=3600) for _ in range(5)]
    assert waits[:4] == [0.0] * 4
    assert 890 < waits[4] <= 900
    assert 60_000 < redis.pttl("spillway:rate:alice") <= 3_600_000


def test_a_bucket_fills_evenly(rates: RequestRates) -> None:
    while not (wait_s := rates.spend("alice", most=300)):
        pass
    assert wait_s <= 0.2  # 60 s / 300
    time.sleep(wait_s)
    assert rates.spend("alice", most=300) == 0


def test_each_caller_has_a_bucket_of_its_own(rates: RequestRates) -> None:
    assert [rates.spend(who, most=1) > 0 for who in ("alice", "bob", "alice")] == [False, False, True]


def test_no_limit_asks_nobody() -> None:
    nowhere = RequestRates(connect(f"redis://127.0.0.1:{free_port()}/0", timeout_s=0.1, retries=0))
    assert nowhere.spend("alice", most=0) == 0
    with pytest.raises(StoreUnavailable):
        nowhere.spend("alice", most=1)


def test_the_clock_is_that_of_redis(rates: RequestRates, monkeypatch: pytest.MonkeyPatch) -> None:
    rates.spend("alice", most=1)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    assert 59 < rates.spend("alice", most=1) <= 60


def test_a_clock_that_goes_back_locks_nobody_out_for_longer_than_a_minute(rates: RequestRates, redis: RedisClient) -> None:
    redis.set("spillway:rate:alice", (JobStore(redis).clock_s() + 86400) * 1000)
    assert 0 < rates.spend("alice", most=10) <= 6


def test_a_call_waits_for_no_disk_and_is_forgotten_within_a_minute(rates: RequestRates, redis: RedisClient) -> None:
    before = redis.info("persistence")["aof_current_size"]
    for _ in range(20):
        rates.spend("alice", most=10)
    assert redis.info("persistence")["aof_current_size"] == before
    assert 0 < redis.pttl("spillway:rate:alice") <= 60_000
