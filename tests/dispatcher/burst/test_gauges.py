"""What is made of a reply: how fast Modal starts, works and is sent to."""

import time
from collections.abc import Iterator

import pytest

from core.burst import Container, Outcome, Receipt, Reply
from core.bursts import Burst, Bursts
from core.job import Job
from core.job_store import JobStore
from core.redis_steps import RedisClient, connect
from dispatcher.burst.flight import Flight
from dispatcher.burst.gauges import COLD_START_S, REAL_TIME_FACTOR, UPLOAD_BYTES_PER_S, Gauges
from tests.core.jobs import submit
from tests.dispatcher.burst.box import STACK

ASSUMED = (COLD_START_S, REAL_TIME_FACTOR, UPLOAD_BYTES_PER_S)


@pytest.fixture
def redis(redis_url: str) -> Iterator[RedisClient]:
    client = connect(redis_url)
    yield client
    client.close()


@pytest.fixture
def job(redis: RedisClient) -> Job:
    return submit(JobStore(redis), duration_s=120)


@pytest.fixture
def gauges(redis: RedisClient) -> Gauges:
    return Gauges(Bursts(redis, JobStore(redis)), lambda: {STACK}, startup_s=600, timeout_s=3600)


def flown(job: Job, *, waited_s: float = 0.0, sent_bytes: int = 0, sent_s: float = 0.0) -> Flight:
    flight = Flight(Burst("b", ((job.id, job.attempt),), 0.1, 180), {job.id: job}, called_at=time.time() - waited_s)
    flight.sent_bytes, flight.sent_s = sent_bytes, sent_s
    return flight


def replied(job: Job, *, seconds: float = 0.0, cold_start_s: float = 20.0, bundles_before: int = 1) -> Reply:
    receipt = Receipt(job_id=job.id, attempt=job.attempt, outcome=Outcome.SUCCEEDED)
    container = Container(device="L4", stack=STACK, cold_start_s=cold_start_s, bundles_before=bundles_before)
    return Reply(receipts=(receipt,), container=container, started_at=time.time(), seconds=seconds)


def read(gauges: Gauges) -> tuple[float, float, float]:
    gauges.read()
    return gauges.cold_start_s, gauges.real_time_factor, gauges.upload_bytes_per_s


def test_a_warm_container_that_has_done_next_to_nothing_tells_nothing(gauges: Gauges, job: Job) -> None:
    short = job.model_copy(update={"duration_s": 59.0})
    gauges.measure(flown(short, sent_bytes=999_999, sent_s=1.0), replied(short, seconds=1.0))
    assert read(gauges) == ASSUMED


def test_speed_and_uplink_are_what_was_measured(gauges: Gauges, job: Job) -> None:
    gauges.measure(flown(job, sent_bytes=3_000_000, sent_s=2.0), replied(job, seconds=10.0))
    assert read(gauges) == pytest.approx((COLD_START_S, 12.0, 1_500_000.0))


def test_a_later_measurement_counts_for_a_third_of_what_is_remembered(gauges: Gauges, job: Job) -> None:
    gauges.measure(flown(job), replied(job, seconds=10.0))
    gauges.measure(flown(job), replied(job, seconds=120.0))
    assert gauges.real_time_factor == pytest.approx(0.7 * 12 + 0.3 * 1)


@pytest.mark.parametrize(
    ("waited_s", "cold_s"),
    [(0, 20), (45, 45), (2400, 600), (7200, 20), (-300, 20)],
    ids=["its own word", "with its boot", "for a free GPU", "by two clocks", "by a clock that is behind"],
)
def test_a_cold_start_is_the_wait_for_it_within_reason(gauges: Gauges, job: Job, waited_s: float, cold_s: float) -> None:
    gauges.measure(flown(job, waited_s=waited_s), replied(job, bundles_before=0))
    assert gauges.cold_start_s == pytest.approx(cold_s, abs=1)


@pytest.mark.parametrize(("audio_s", "deadline_s"), [(10, 180), (900, 720), (100_000, 3570)], ids=["floor", "four times", "Modal's own"])
def test_a_container_may_take_four_times_as_long_as_expected_within_modals_limit(gauges: Gauges, audio_s: float, deadline_s: float) -> None:
    assert gauges.deadline_s(audio_s) == deadline_s
