"""Calls that Modal does not take, or that end without a reply, with Modal's own client."""

import hashlib
import os
import threading
import time
from collections.abc import Callable

import pytest
from grpclib import Status
from structlog.testing import capture_logs

from core.burst import BundleJob, Receipt
from core.job import JobState
from dispatcher.burst.calls import MOST_HUNG, Place
from dispatcher.burst.cargo import Cargo
from tests.conftest import free_port, wait_for
from tests.dispatcher.burst.box import (
    DOLLARS_PER_S,
    RESERVE_USD,
    SCALEDOWN_S,
    WHOLE_USD,
    BurstBox,
    not_deployed,
    runs_here,
    state,
    succeeded,
)
from tests.modal_server import Conduct, Result, crashed, raised, raised_unknown, timed_out, worker_lost
from tests.modal_wire import Fault


@pytest.mark.parametrize(
    "ending",
    [timed_out(), worker_lost(), crashed(), raised(ValueError("no")), raised(TimeoutError("asr")), raised_unknown()],
    ids=["function timeout", "worker lost", "crash", "exception", "timeout of its own", "unknown exception"],
)
def test_a_call_that_ends_without_a_reply_gives_its_jobs_back_and_costs_what_was_reserved(box: BurstBox, ending: Result) -> None:
    job = box.box.submit()
    box.server.conducts = [Conduct(ending=ending)]
    looks_pending = b"TimeoutError" in ending.data  # until its time is up
    box.startup_s = 0.3 if looks_pending else 60
    box.bridge = box.another()
    box.begin(job, deadline_s=0.3 if looks_pending else 60)
    box.until_settled()
    assert state(box, job) == (JobState.QUEUED, 1, 0, 1)
    if looks_pending:  # ended by us: the time until then
        assert DOLLARS_PER_S * SCALEDOWN_S < box.ledger().spent_usd < RESERVE_USD
    else:
        assert box.ledger().spent_usd == RESERVE_USD
    assert box.bridge.breaker.is_open
    runs_here(box, job)


def test_an_expired_result_gives_the_jobs_back(box: BurstBox) -> None:
    job = box.box.submit()
    box.server.conducts = [Conduct(ends=threading.Event())]
    flight = box.begin(job)
    wait_for(lambda: flight.call_id, "the call to be made")
    box.server.calls[str(flight.call_id)].is_expired = True
    box.until_settled()
    assert state(box, job) == (JobState.QUEUED, 1, 0, 1)
    assert box.ledger().spent_usd == RESERVE_USD
    runs_here(box, job)


def wrong_token(box: BurstBox) -> None:
    box.place = Place("spillway", None, "ak-test", "as-wrong")
    box.bridge = box.another()


def no_token(box: BurstBox) -> None:
    box.place = Place("spillway", None, None, None)
    box.bridge = box.another()


def no_token_at_all(box: BurstBox) -> None:
    """As a file with a line too much gives it: Modal's client cannot send it, and says so in its own way."""
    box.place = Place("spillway", None, "ak-test", "as-test\n")
    box.bridge = box.another()


def used_up(box: BurstBox) -> None:
    box.server.faults = [Fault("FunctionMap", Status.RESOURCE_EXHAUSTED, "workspace budget reached")]


def refused_as_it_is(box: BurstBox) -> None:
    box.server.faults = [Fault("FunctionGet", Status.FAILED_PRECONDITION, "no")]


def away(box: BurstBox) -> None:
    box.server.faults = [Fault("FunctionMap", Status.UNAVAILABLE, "gone", times=100)]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (not_deployed, "modal deploy"), (wrong_token, "refuses the token"), (no_token, "SPILLWAY_MODAL_TOKEN_ID"),
        (no_token_at_all, "ValueError"),
        (used_up, "quota or budget"), (refused_as_it_is, "update Spillway"), (away, "not to be reached"),
    ],
)  # fmt: skip
def test_a_call_that_modal_does_not_take_costs_nothing_and_is_no_fault_of_its_jobs(
    box: BurstBox, fault: Callable[[BurstBox], None], said: str
) -> None:
    fault(box)
    job = box.box.submit()
    box.begin(job)
    box.until_settled()
    assert state(box, job) == (JobState.QUEUED, 1, 0, 0)
    assert (box.ledger().spent_usd, box.ledger().reserved_usd) == (0, 0)
    assert said in box.bridge.breaker.reason
    runs_here(box, job)


def test_a_modal_at_which_nobody_listens_costs_nothing(box: BurstBox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client tries for most of a minute: nobody waits for that."""
    monkeypatch.setenv("MODAL_SERVER_URL", f"http://127.0.0.1:{free_port()}")
    box.ask_timeout_s = 0.5
    box.bridge = box.another()
    job = box.box.submit()
    box.begin(job)
    box.until_settled()
    assert state(box, job) == (JobState.QUEUED, 1, 0, 0)
    assert (box.ledger().spent_usd, box.ledger().reserved_usd) == (0, 0)


def test_a_modal_that_is_silent_before_the_call_costs_nothing(box: BurstBox) -> None:
    box.ask_timeout_s = 0.5
    box.bridge = box.another()
    box.server.faults = [Fault("FunctionGet", is_silent=True, times=100), Fault("ClassGet", is_silent=True, times=100)]
    job = box.box.submit()
    box.begin(job)
    box.until_settled()
    assert (state(box, job), box.ledger().spent_usd) == ((JobState.QUEUED, 1, 0, 0), 0)


def test_a_silent_peer_holds_nobody(box: BurstBox) -> None:
    box.send_timeout_s = 2.0
    box.bridge = box.another()
    box.server.faults = [Fault("FunctionMap", is_silent=True, times=100)]
    job = box.box.submit()
    begun = time.monotonic()
    box.begin(job)
    box.bridge.step()
    assert time.monotonic() - begun < 1.5
    box.until_settled()
    assert state(box, job) == (JobState.QUEUED, 1, 0, 0)
    assert box.ledger().spent_usd == RESERVE_USD  # nobody knows whether it was taken


def test_a_modal_that_was_silent_for_long_is_reached_once_it_answers(box: BurstBox) -> None:
    """What hung meanwhile may hang for good."""
    box.send_timeout_s = 0.3
    box.bridge = box.another()
    box.server.faults = [Fault("FunctionMap", is_silent=True, times=MOST_HUNG)]
    job = box.box.submit()
    for _ in range(MOST_HUNG):
        box.begin(job)
        box.until_settled()

    def is_reached() -> bool:
        box.begin(job)
        box.until_settled()
        return state(box, job)[0] == JobState.SUCCEEDED

    wait_for(is_reached, "a call to come through")


def test_a_storage_of_modals_that_takes_no_recording_costs_nothing(box: BurstBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cargo, "_flac", lambda *_: os.urandom(20_000))
    box.server.faults = [Fault("put_blob", times=100)]
    job = box.box.submit()
    box.begin(job)
    box.until_settled()
    assert (state(box, job), box.server.calls) == ((JobState.QUEUED, 1, 0, 0), {})
    assert (box.ledger().spent_usd, box.ledger().reserved_usd) == (0, 0)
    assert box.bridge.breaker.reason == "Modal's storage does not take the recordings"


@pytest.mark.parametrize("breaks_off", [False, True], ids=["refused", "broken off"])
def test_a_storage_of_modals_that_does_not_give_a_reply_is_asked_again(box: BurstBox, breaks_off: bool) -> None:
    """What lies there is paid for."""
    job = box.box.submit()
    box.says = large
    box.server.faults = [Fault("get_blob", loses_reply=breaks_off, times=8)]
    box.begin(job)
    box.until_settled()
    assert state(box, job) == (JobState.SUCCEEDED, 1, 0, 0)
    assert (box.ledger().spent_usd, box.ledger().reserved_usd) == (WHOLE_USD, 0)


def large(job: BundleJob) -> Receipt:
    """More than comes with the answer itself."""
    receipt = succeeded(job)
    content = (receipt.transcript or "") + " " * 3 * 1024**2
    return receipt.model_copy(update={"transcript": content, "sha256": hashlib.sha256(content.encode()).hexdigest()})


def test_an_absence_while_a_call_runs_is_waited_out(box: BurstBox) -> None:
    job, ends = box.box.submit(), threading.Event()
    box.server.conducts = [Conduct(ends=ends)]
    flight = box.begin(job)
    wait_for(lambda: flight.call_id, "the call to be made")
    away = Fault("FunctionGetOutputs", Status.UNAVAILABLE, "back soon", times=12)
    with capture_logs() as logs:
        box.server.faults = [away]
        wait_for(lambda: away.times < 12, "the absence to be felt")
        ends.set()
        box.until_settled()
    assert state(box, job) == (JobState.SUCCEEDED, 1, 0, 0)
    assert (box.ledger().spent_usd, box.ledger().reserved_usd) == (WHOLE_USD, 0)
    said = [(line["event"], "not to be reached" in line["reason"]) for line in logs if line["log_level"] == "warning"]
    assert said == [("burst cannot be asked for", True)]
