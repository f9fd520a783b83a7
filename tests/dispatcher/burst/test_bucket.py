"""Bursts whose recordings and results are in a bucket: keys travel, claims fence, nothing else goes to Modal."""

import hashlib
import threading
from collections.abc import Callable

import pytest

from core.burst import REVOKED, Outcome, Receipt
from core.errors import ObjectRefused
from core.file_store import claim_key, product_key, result_key
from core.job import JobState, Stage
from tests.conftest import wait_for
from tests.dispatcher.burst.box import WHOLE_USD, BurstBox, is_there, runs_here, state, stored
from tests.modal_server import Conduct, worker_lost
from tests.modal_wire import Fault


def test_the_key_goes_and_the_results_key_comes(bucket_box: BurstBox) -> None:
    box = bucket_box
    box.says = lambda job: stored(box, job)
    job = box.box.submit()
    box.begin(job)
    box.until_settled()
    (bundle,), (call,) = box.heard, box.server.calls.values()
    assert (bundle.file_store, bundle.jobs[0].input_key, bundle.jobs[0].input_sha256) == (box.bucket, job.input_key, job.input_sha256)
    assert call.args[1] == {}
    ended = box.store.get(job.id)
    assert (state(box, job), ended.result_key) == ((JobState.SUCCEEDED, 1, 0, 0), result_key(job.id, 1))
    assert ended.products == {"asr": product_key(job.id, 1, Stage.ASR)}
    assert (box.ledger().spent_usd, box.ledger().reserved_usd) == (WHOLE_USD, 0)


def test_what_an_earlier_attempt_kept_goes_along(bucket_box: BurstBox) -> None:
    box = bucket_box
    job = box.box.submit()
    box.says = lambda asked: stored(box, asked).model_copy(update={"outcome": Outcome.RETURNED, "sha256": None})
    box.begin(job)
    box.until_settled()
    assert state(box, job)[0] == JobState.QUEUED
    box.says = lambda asked: stored(box, asked)
    box.begin(job)
    box.until_settled()
    assert (box.heard[1].jobs[0].attempt, box.heard[1].jobs[0].products) == (2, {"asr": product_key(job.id, 1, Stage.ASR)})
    assert box.heard[1].jobs[0].product_sha256["asr"] == hashlib.sha256(b"words").hexdigest()
    assert state(box, job) == (JobState.SUCCEEDED, 2, 0, 0)


def test_a_cancel_writes_over_the_claim_and_the_result_is_dropped(bucket_box: BurstBox) -> None:
    box = bucket_box
    cancelled, other, ends = box.box.submit(), box.box.submit(), threading.Event()
    box.says = lambda job: stored(box, job)
    box.server.conducts = [Conduct(ends=ends)]
    flight = box.begin(cancelled, other)
    wait_for(lambda: flight.call_id and box.heard, "the container to have its results")
    box.store.cancel(cancelled.id)
    box.step_until(lambda: claim_of(box, cancelled.id) == REVOKED, "the claim to be written over")
    ends.set()
    box.until_settled()
    assert [state(box, job)[0] for job in (cancelled, other)] == [JobState.CANCELLED, JobState.SUCCEEDED]
    wait_for(lambda: not is_there(box, result_key(cancelled.id, 1)), "the result to be dropped")
    assert is_there(box, result_key(other.id, 1))
    assert claim_of(box, other.id) == b"fc"


def test_an_attempt_whose_claim_is_anothers_goes_back_without_blame(bucket_box: BurstBox) -> None:
    box = bucket_box
    lost, done = box.box.submit(), box.box.submit()
    box.says = lambda job: Receipt(job_id=job.id, attempt=job.attempt, outcome=Outcome.LOST) if job.id == lost.id else stored(box, job)
    box.begin(lost, done)
    box.until_settled()
    assert [state(box, job) for job in (lost, done)] == [(JobState.QUEUED, 1, 0, 0), (JobState.SUCCEEDED, 1, 0, 0)]
    assert not box.bridge.breaker.is_open


def test_a_call_that_nobody_knows_of_is_fenced_by_its_claim(bucket_box: BurstBox) -> None:
    """The dispatcher died between the spawn and keeping the call's id: the container finds that the attempt was taken back."""
    box = bucket_box
    job = box.box.submit()
    box.server.conducts = [Conduct(starts=threading.Event())]
    box.begin(job)
    box.call_kept()
    box.box.redis.hdel(f"spillway:burst:{box.bursts.under_way()[0].id}", "call_id")
    box.bridge = box.another()
    box.until_settled()
    wait_for(lambda: claim_of(box, job.id) == REVOKED, "the claim to be written over")
    assert state(box, job) == (JobState.QUEUED, 1, 0, 0)


def no_answer(box: BurstBox) -> None:
    box.send_timeout_s = 0.5
    box.bridge = box.another()
    box.server.faults = [Fault("FunctionMap", is_silent=True, times=100)]


def lost(box: BurstBox) -> None:
    box.server.conducts = [Conduct(ending=worker_lost())]


def overdue(box: BurstBox) -> None:
    box.server.conducts = [Conduct(ends=threading.Event())]
    box.startup_s = 0.2
    box.bridge = box.another()


@pytest.mark.parametrize("fault", [no_answer, lost, overdue])
def test_a_container_that_may_still_have_a_job_that_went_back_is_told(bucket_box: BurstBox, fault: Callable[[BurstBox], None]) -> None:
    box = bucket_box
    fault(box)
    job = box.box.submit()
    box.begin(job, deadline_s=0.2)
    box.until_settled()
    wait_for(lambda: claim_of(box, job.id) == REVOKED, "the claim to be written over")
    runs_here(box, job)


def claim_of(box: BurstBox, job_id: str) -> bytes:
    """Empty also in the moment in which it changes."""
    try:
        return box.box.files.read(claim_key(job_id, 1))
    except (FileNotFoundError, ObjectRefused):
        return b""
