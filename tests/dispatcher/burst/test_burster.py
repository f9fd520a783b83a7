"""Decisions that become calls: the real policy, a real store, Modal's own client."""

import threading
import time
from typing import Any

import pytest
from grpclib import Status

from core.bursts import Caps
from core.errors import SettingsError
from core.job import Job, JobState
from core.job_store import Runner
from core.settings import Settings
from core.worker_reports import WorkerReport
from dispatcher.burst.burster import Burster
from dispatcher.burst.moment import Moments
from dispatcher.burst.wiring import make_burster
from tests.conftest import wait_for
from tests.dispatcher.burst.box import BurstBox, not_deployed, state
from tests.modal_server import Conduct
from tests.modal_wire import Fault

AUDIO_S = 600.0


@pytest.fixture(autouse=True)
def measured(box: BurstBox) -> None:
    """A Modal that starts at once, so that any job is worth a container."""
    box.bursts.measure(cold_start_s=0.1, real_time_factor=10.0)


def burster_of(box: BurstBox, *, is_on: bool = True, **settings: Any) -> Burster:
    given: dict[str, Any] = {"target_wait_s": 0, "modal_scaledown_s": 2} | settings
    moments = Moments(box.store, box.bursts, box.gauges, Settings(**given))
    return Burster(box.bridge, moments, box.gauges, box.bursts, poll_s=0.02, is_on=is_on)


def until(burster: Burster, condition: Any, what: str) -> None:
    def stepped() -> object:
        burster.step()
        return condition()

    wait_for(stepped, what)


def have_ended(box: BurstBox, *jobs: Job) -> bool:
    return all(box.store.get(job.id).state.is_terminal for job in jobs)


def test_jobs_that_would_start_too_late_go_and_come_home(box: BurstBox) -> None:
    jobs = [box.box.submit(duration_s=AUDIO_S) for _ in range(3)]
    kept = box.box.submit(duration_s=AUDIO_S, local_only=True)
    burster = burster_of(box)
    until(burster, lambda: have_ended(box, *jobs), "the jobs to end")
    assert {state(box, job) for job in jobs} == {(JobState.SUCCEEDED, 1, 0, 0)}
    assert state(box, kept) == (JobState.QUEUED, 0, 0, 0)
    until(burster, lambda: not box.bursts.under_way(), "every call to be settled")
    assert (box.ledger().jobs, box.ledger().reserved_usd) == (3, 0)


@pytest.mark.parametrize(("jobs", "containers"), [(1, 1), (6, 2)])
def test_modal_is_told_how_many_containers_are_wanted_before_it_is_called(box: BurstBox, jobs: int, containers: int) -> None:
    """Or it would bring up another one for a call that is handed over while a container still works."""
    sent = [box.box.submit(duration_s=800) for _ in range(jobs)]
    until(burster_of(box), lambda: have_ended(box, *sent), "the jobs to end")
    assert set(box.server.limits) == {containers}
    assert box.server.heard.index("FunctionUpdateSchedulingParams") < box.server.heard.index("FunctionMap")


def test_a_call_that_is_handed_over_while_a_container_works_brings_up_no_other(box: BurstBox) -> None:
    ends = [threading.Event() for _ in range(3)]
    box.server.conducts = [Conduct(ends=end) for end in ends]
    box.begin(box.box.submit(duration_s=10))
    burster = burster_of(box, target_wait_s=900, modal_scaledown_s=30)
    for calls, end in enumerate(ends[:-1], start=2):
        box.box.submit(duration_s=10)
        until(burster, lambda calls=calls: len(box.server.calls) == calls, "the next call, when the one before it should have ended")  # type: ignore[misc]
        end.set()
        until(burster, lambda: len(box.bursts.under_way()) == 1, "the call before it to end")
    assert box.server.limits == [1, 1]
    ends[-1].set()
    until(burster, lambda: not box.bursts.under_way(), "the last call to end")


def test_modal_is_never_told_of_more_containers_than_allowed(box: BurstBox) -> None:
    box.server.conducts = [Conduct(ends=threading.Event()) for _ in range(3)]
    for _ in range(3):  # as another dispatcher left them
        box.begin(box.box.submit(duration_s=10))
    wait_for(lambda: len(box.server.calls) == 3, "the calls to be made")
    job = box.box.submit(duration_s=10)
    until(burster_of(box, target_wait_s=900), lambda: state(box, job)[0] == JobState.SUCCEEDED, "a call for it")
    assert box.server.limits == [2]


def test_a_modal_that_cannot_be_told_is_called_all_the_same(box: BurstBox) -> None:
    box.server.faults = [Fault("FunctionUpdateSchedulingParams", Status.UNAVAILABLE, "gone", times=100)]
    job = box.box.submit(duration_s=AUDIO_S)
    until(burster_of(box), lambda: have_ended(box, job), "the job to end")
    assert (state(box, job), box.server.limits, box.bridge.breaker.is_open) == ((JobState.SUCCEEDED, 1, 0, 0), [], False)


def test_switched_off_it_begins_nothing_and_brings_home_what_is_under_way(box: BurstBox) -> None:
    under_way, waiting = box.box.submit(duration_s=AUDIO_S), box.box.submit(duration_s=AUDIO_S)
    box.begin(under_way)
    burster = burster_of(box, is_on=False)
    until(burster, lambda: have_ended(box, under_way), "the call to be brought home")
    assert (state(box, waiting)[0], box.bursts.outlook()) == (JobState.QUEUED, None)


def test_bursts_that_are_on_without_a_token_do_not_begin(box: BurstBox) -> None:
    with pytest.raises(
        SettingsError, match=r"SPILLWAY_BURST is on without a token.* set SPILLWAY_MODAL_TOKEN_ID and SPILLWAY_MODAL_TOKEN_SECRET"
    ):
        make_burster(Settings(burst=True, modal_token_id="ak-test"), box.box.redis, box.store)


def test_one_look_in_favour_brings_up_no_container(box: BurstBox) -> None:
    box.box.submit(duration_s=AUDIO_S)
    burster = burster_of(box)
    burster.step()
    assert box.bursts.under_way() == ()
    outlook = box.bursts.outlook()
    assert outlook is not None
    assert "the next look decides" in outlook.why[0]
    until(burster, box.bursts.under_way, "the second look")


def test_at_the_cap_nothing_goes_and_it_says_so(box: BurstBox) -> None:
    job = box.box.submit(duration_s=AUDIO_S)
    box.bursts.post(0.999)
    burster = burster_of(box)
    for _ in range(3):
        burster._decided = 0.0
        burster.step()
    outlook = box.bursts.outlook()
    assert outlook is not None
    assert "are left under the caps" in outlook.why[0]
    assert state(box, job)[0] == JobState.QUEUED


def test_the_ledger_refuses_what_the_view_did_not_see(box: BurstBox) -> None:
    """Another dispatcher has spent the money since."""
    job = box.box.submit(duration_s=AUDIO_S)
    box.caps = Caps(0.0001, 25)
    box.bridge = box.another()
    burster = burster_of(box)
    for _ in range(3):
        burster._decided = 0.0
        burster.step()
    assert (state(box, job), box.bursts.under_way()) == ((JobState.QUEUED, 0, 0, 0), ())


def test_a_modal_that_failed_is_tried_by_one_call(box: BurstBox) -> None:
    not_deployed(box)
    jobs = [box.box.submit(duration_s=800) for _ in range(4)]  # each fills a bundle
    burster = burster_of(box, modal_max_containers=4, burst_day_usd=100)
    until(burster, lambda: box.bridge.breaker.is_open and not box.bursts.under_way(), "the first tries to fail")
    assert {state(box, job)[0] for job in jobs} == {JobState.QUEUED}
    box.server.is_deployed = True
    ends = threading.Event()
    box.server.conducts = [Conduct(ends=ends)]
    burster = burster_of(box, modal_max_containers=4, burst_day_usd=100)
    box.bridge.breaker._until = 0.0  # its pause is over
    until(burster, lambda: box.server.calls, "one call to try")
    for _ in range(5):
        burster._decided = 0.0
        burster.step()
    assert (len(box.bursts.under_way()), box.server.limits) == (1, [1])
    ends.set()
    until(burster, lambda: have_ended(box, *jobs), "all to go once it is well")
    assert not box.bridge.breaker.is_open


def test_a_long_wait_for_a_container_does_not_end_bursting(box: BurstBox) -> None:
    """Once a start were too dear for the caps nothing would go, and no better start be measured."""
    box.box.redis.delete("spillway:burst_figures")
    answer = box.answer
    box.server.remote = lambda call: answer(call) | {"started_at": time.time() + 2400}
    box.begin(box.box.submit())
    box.step_until(lambda: not box.bursts.under_way(), "the call to be settled")
    box.server.remote = answer
    box.bursts.measure(real_time_factor=10.0)
    jobs = [box.box.submit(duration_s=800) for _ in range(8)]
    burster = burster_of(box)
    until(burster, lambda: any(state(box, job)[0] == JobState.SUCCEEDED for job in jobs), "jobs to go")


def test_a_call_that_no_container_has_begun_comes_back_to_an_idle_gpu(box: BurstBox) -> None:
    job = box.box.submit(duration_s=AUDIO_S)
    box.bursts.measure(cold_start_s=600.0)  # it takes its time today
    box.server.conducts = [Conduct(starts=threading.Event())]
    flight = box.begin(job)
    wait_for(lambda: flight.call_id, "the call to be made")
    box.store.report_worker(WorkerReport("gpu0", True, "", "cuda", "large-v2"), ttl_s=60)
    speed = box.box.submit()
    claimed = box.store.claim(Runner("gpu0", "boot"), lease_s=60, fits_s=3600)
    assert claimed is not None
    assert claimed.id == speed.id
    box.store.succeed(claimed, result_key="r")
    burster = burster_of(box)
    until(burster, lambda: not box.bursts.under_way(), "the call to be taken back")
    assert state(box, job) == (JobState.QUEUED, 1, 0, 0)
    assert box.server.calls[str(flight.call_id)].terminates_containers
