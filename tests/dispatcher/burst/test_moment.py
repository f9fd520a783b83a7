"""What the policy is told, from a real store."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from core.job import Job, JobFailure
from core.job_store import Runner
from core.settings import Settings
from core.worker_reports import WorkerReport
from dispatcher.burst.calls import CallFailed, Why
from dispatcher.burst.flight import Meant
from dispatcher.burst.moment import Moments
from dispatcher.burst.view import View
from tests.conftest import wait_for
from tests.dispatcher.burst.box import RESERVE_USD, BurstBox
from tests.modal_server import Conduct

GPU = WorkerReport("gpu0", True, "", "cuda", "large-v2")
FAILURE = JobFailure(code="engine_failed", message="it broke")


def moments_of(box: BurstBox, **settings: Any) -> Moments:
    return Moments(box.store, box.bursts, box.gauges, Settings(**settings))


def seen(box: BurstBox, **settings: Any) -> View:
    return moments_of(box, **settings).now(box.bridge)


def claimed(box: BurstBox, job: Job) -> Job:
    got = box.store.claim(Runner("gpu0", "boot"), lease_s=60, fits_s=100_000)
    assert got is not None
    assert got.id == job.id
    return got


def test_jobs_are_told_in_the_order_of_claims_with_their_clips_and_their_age(box: BurstBox) -> None:
    late = box.box.submit(duration_s=600)
    low = box.box.submit(priority="low")
    high = box.box.submit(priority="high", duration_s=600, clip_start=100, clip_end=130)
    box.box.redis.hincrby(f"spillway:job:{late.id}", "created_at", -90_000)
    pending = seen(box).pending
    assert [job.id for job in pending] == [high.id, late.id, low.id]
    assert (pending[0].audio_s, pending[0].upload_bytes) == (30, 30 * 24_000)
    assert 90 <= pending[1].age_s < 100
    assert {job.upload_bytes for job in seen(box, file_store="gs://bucket/x").pending} == {0}


def local_only(box: BurstBox) -> Job:
    return box.box.submit(local_only=True)


def burst_in_vain(box: BurstBox) -> Job:
    job = box.box.submit()
    box.store.release(claimed(box, job), is_burst_failed=True)
    return job


def broken_once(box: BurstBox) -> Job:
    job = box.box.submit()
    box.store.retry(claimed(box, job), FAILURE, max_failures=2)
    return job


def too_long_for_a_call(box: BurstBox) -> Job:
    return box.box.submit(duration_s=5.0 * 3600)  # at the assumed speed as long as Modal lets a call run, and the reply is still to come


def too_large_for_memory(box: BurstBox) -> Job:
    box.bursts.measure(real_time_factor=100)
    return box.box.submit(duration_s=4 * 3600)


@pytest.mark.parametrize("of", [local_only, burst_in_vain, broken_once, too_long_for_a_call, too_large_for_memory])
def test_what_must_not_leave_is_told_so(box: BurstBox, of: Callable[[BurstBox], Job]) -> None:
    job, free = of(box), box.box.submit()
    assert {told.id: told.is_local_only for told in seen(box).pending} == {job.id: True, free.id: False}


def test_a_large_recording_in_a_bucket_may_leave(box: BurstBox) -> None:
    too_large_for_memory(box)
    assert not seen(box, file_store="gs://bucket/x").pending[0].is_local_only


def test_a_job_that_cost_two_runners_is_a_suspect(box: BurstBox) -> None:
    job = box.box.submit()
    box.box.redis.hset(f"spillway:job:{job.id}", "losses", 2)
    assert seen(box).pending[0].is_suspect


def test_a_job_that_left_is_pending_no_more_and_loads_no_gpu_here(box: BurstBox) -> None:
    box.store.report_worker(GPU, ttl_s=60)
    box.store.report_worker(replace(GPU, slot="gpu1", fit=False), ttl_s=60)
    gone, here = box.box.submit(duration_s=60), box.box.submit(duration_s=40)
    box.server.conducts = [Conduct(ends=threading.Event())]
    box.begin(gone)
    claimed(box, here)
    view = seen(box)
    assert view.pending == ()
    assert [[job.audio_s for job in gpu.running] for gpu in view.local.gpus] == [[40]]
    assert [call.audio_s for call in view.cloud.calls] == [60]
    assert view.budget.today_dollars == pytest.approx(1 - RESERVE_USD)
    assert view.budget.month_dollars == pytest.approx(25 - RESERVE_USD)


def test_a_call_has_begun_once_its_cold_start_is_over_and_at_once_in_a_warm_container(box: BurstBox) -> None:
    cold, warm = box.box.submit(), box.box.submit()
    box.server.conducts = [Conduct(ends=threading.Event()), Conduct(ends=threading.Event())]
    first, second = box.begin(cold), box.begin(warm)
    second.meant = Meant.IDLE
    wait_for(lambda: first.call_id and second.call_id, "both calls to be made")
    assert {call.id: call.has_started for call in seen(box).cloud.calls} == {first.burst.id: False, second.burst.id: True}
    assert first.called is not None
    first.called -= 70
    by_id = {call.id: call for call in seen(box).cloud.calls}
    assert by_id[first.burst.id].has_started
    assert by_id[first.burst.id].since_s == pytest.approx(10, abs=2)


def test_a_container_idles_until_its_next_call_or_its_end(box: BurstBox) -> None:
    moments = moments_of(box, modal_scaledown_s=30)
    box.server.conducts = [Conduct(ends=threading.Event())]
    moments.container_is_free(())
    moments.container_is_free(())
    assert moments.now(box.bridge).cloud.idle_containers == 2
    flight = box.begin(box.box.submit())
    moments.begun(flight, needs_container=False)
    wait_for(lambda: flight.called, "the call to be made")
    assert moments.now(box.bridge).cloud.idle_containers == 1
    moments = moments_of(box, modal_scaledown_s=2)
    moments.container_is_free(())
    wait_for(lambda: not moments.now(box.bridge).cloud.idle_containers, "the container to be let go")


def test_a_call_that_is_handed_over_early_begins_when_the_one_before_it_has_ended(box: BurstBox) -> None:
    moments = moments_of(box)
    box.server.conducts = [Conduct(ends=threading.Event()), Conduct(ends=threading.Event())]
    first, second = box.begin(box.box.submit()), box.begin(box.box.submit())
    moments.begun(first, needs_container=True)
    moments.begun(second, needs_container=False)
    wait_for(lambda: first.called and second.called, "both calls to be made")
    first.called -= 70  # type: ignore[operator]
    assert started(moments, box) == [True, False]
    del box.bridge.flights[first.burst.id]
    moments.container_is_free(box.bridge.flights.values())
    assert started(moments, box) == [True]
    view = moments.now(box.bridge)
    assert (view.cloud.idle_containers, view.cloud.calls[0].since_s) == (0, pytest.approx(0, abs=2))
    box.bridge.flights.clear()
    moments.container_is_free(())
    assert moments.now(box.bridge).cloud.idle_containers == 1


def started(moments: Moments, box: BurstBox) -> list[bool]:
    return [call.has_started for call in moments.now(box.bridge).cloud.calls]


def test_while_modal_is_tried_again_nothing_else_may_go(box: BurstBox) -> None:
    box.bridge.breaker.failed(CallFailed(Why.AWAY, "gone"))
    assert seen(box).cloud.is_breaker_open
    box.bridge.breaker._until = 0.0  # its pause is over
    assert not seen(box).cloud.is_breaker_open
    box.server.conducts = [Conduct(ends=threading.Event())]
    box.begin(box.box.submit())
    assert seen(box).cloud.is_breaker_open


def test_a_breaker_outlives_any_number_of_failures(box: BurstBox) -> None:
    for _ in range(1100):
        box.bridge.breaker.failed(CallFailed(Why.AWAY, "gone"))
    assert box.bridge.breaker.is_open


@pytest.mark.parametrize(("audio_s", "timeout_s"), [(10.0, 3600), (900.0, 3600), (100_000.0, 3600), (10.0, 60), (900.0, 90)])
def test_a_container_has_time_to_answer_before_modal_ends_its_call(box: BurstBox, audio_s: float, timeout_s: int) -> None:
    box.gauges._timeout_s = timeout_s
    assert box.gauges.deadline_s(audio_s) <= timeout_s - 30


def test_what_was_spent_is_gone_from_the_budget(box: BurstBox) -> None:
    box.bursts.post(0.4)
    budget = seen(box, burst_day_usd=0.5, burst_month_usd=10).budget
    assert budget.today_dollars == pytest.approx(0.1)
    assert budget.month_dollars == pytest.approx(9.6)
