"""Jobs that are cancelled or deleted, at every moment of their call, with files here and in a bucket."""

import threading
from collections.abc import Callable

import pytest

from core.errors import JobNotFound
from core.job import Job, JobState
from dispatcher.burst.cargo import Cargo
from dispatcher.burst.flight import Flight
from tests.conftest import wait_for
from tests.dispatcher.burst.box import BurstBox, is_there
from tests.modal_server import Conduct

TRANSCRIPT = "jobs/{}/transcript-1.json"


def cancel(box: BurstBox, job: Job) -> None:
    box.store.cancel(job.id)


def delete(box: BurstBox, job: Job) -> None:
    """As the service does it."""
    box.box.files.delete_job(job.id)
    box.store.delete(job.id)


Act = Callable[[BurstBox, Job], None]
ACTS = pytest.mark.parametrize("act", [cancel, delete])


def at_work(box: BurstBox, job: Job) -> Flight:
    """The container has done it, and never says so; in a bucket its result is there."""
    box.server.conducts = [Conduct(ends=threading.Event())]
    flight = box.begin(job)
    box.call_kept()
    wait_for(lambda: box.heard and (box.bucket is None or is_there(box, TRANSCRIPT.format(job.id))), "the container to work")
    return flight


def check_gone(box: BurstBox, job: Job, act: Act) -> None:
    wait_for(lambda: not is_there(box, TRANSCRIPT.format(job.id)), "the result to be dropped")
    if act is cancel:
        ended = box.store.get(job.id)
        assert (ended.state, ended.result_key, ended.attempt) == (JobState.CANCELLED, None, 1)
    else:
        with pytest.raises(JobNotFound):
            box.store.get(job.id)
        wait_for(lambda: not list(box.box.files.listed(f"jobs/{job.id}")), "its files to be gone")
    assert not box.bridge.breaker.is_open
    assert box.ledger().reserved_usd == 0


@ACTS
def test_before_it_is_sent(either: BurstBox, act: Act, monkeypatch: pytest.MonkeyPatch) -> None:
    job, packs, bundle_job = either.box.submit(), threading.Event(), Cargo._bundle_job

    def slow(cargo: Cargo, job: Job) -> object:
        packs.wait(20)
        return bundle_job(cargo, job)

    monkeypatch.setattr(Cargo, "_bundle_job", slow)
    flight = either.begin(job)
    act(either, job)
    either.step_until(lambda: flight.recall or flight.landed, "it to be heard, or its recording to be gone")
    packs.set()
    either.until_settled()
    check_gone(either, job, act)
    assert (either.server.calls, either.ledger().spent_usd) == ({}, 0)


@ACTS
def test_while_it_runs(either: BurstBox, act: Act) -> None:
    job = either.box.submit()
    flight = at_work(either, job)
    act(either, job)
    either.until_settled()
    assert either.server.calls[str(flight.call_id)].terminates_containers
    either.box.files.delete(TRANSCRIPT.format(job.id))  # in a bucket it lies there until its time is over: no reply told of it
    check_gone(either, job, act)


@ACTS
def test_before_its_container_begins_which_does_not_hear_of_it(either: BurstBox, act: Act) -> None:
    job, starts = either.box.submit(), threading.Event()
    either.server.conducts = [Conduct(starts=starts)]
    flight = either.begin(job)
    wait_for(lambda: flight.call_id, "the call to be made")
    act(either, job)
    starts.set()
    wait_for(lambda: flight.landed, "its reply")
    either.until_settled()
    check_gone(either, job, act)


@ACTS
def test_when_its_reply_is_there(either: BurstBox, act: Act) -> None:
    job = either.box.submit()
    flight = either.begin(job)
    wait_for(lambda: flight.landed, "its reply")
    act(either, job)
    either.until_settled()
    check_gone(either, job, act)


@ACTS
@pytest.mark.parametrize("is_known", [True, False], ids=["its call known", "its call unknown"])
def test_while_nobody_leads(either: BurstBox, act: Act, is_known: bool) -> None:
    job = either.box.submit()
    flight = at_work(either, job)
    either.bridge.close()
    if not is_known:
        either.box.redis.hdel(f"spillway:burst:{flight.burst.id}", "call_id")
    act(either, job)
    either.bridge = either.another()
    either.until_settled()
    assert either.server.calls[str(flight.call_id)].terminates_containers == is_known
    either.box.files.delete(TRANSCRIPT.format(job.id))
    check_gone(either, job, act)
