"""Jobs that go to Modal and come back, with Modal's own client: whatever happens, nothing is lost or doubled, and the ledger is right."""

import threading

import pytest

from core.burst import Outcome, Receipt, Reply, Stack, mismatch
from core.file_store import result_key
from core.job import JobState
from core.job_store import Runner
from dispatcher.burst.flight import Recall
from tests.conftest import wait_for
from tests.dispatcher.burst.box import (
    DOLLARS_PER_S,
    RESERVE_USD,
    SCALEDOWN_S,
    SECONDS,
    WHOLE_USD,
    BurstBox,
    ended,
    not_deployed,
    runs_here,
    state,
    succeeded,
)
from tests.modal_server import Conduct


def test_a_bundle_goes_and_its_results_come(box: BurstBox) -> None:
    jobs = [box.box.submit(), box.box.submit(language="en", clip_end=0.5)]
    flight = box.begin(*jobs)
    box.until_settled()
    assert [state(box, job) for job in jobs] == [(JobState.SUCCEEDED, 1, 0, 0)] * 2
    assert [store_job.runner for store_job in map(box.store.get, (job.id for job in jobs))] == ["modal", "modal"]
    key = box.store.get(jobs[0].id).result_key
    assert key is not None
    assert b'"runner":"modal"' in box.box.files.read(key)
    (bundle,) = box.heard
    assert (bundle.jobs[1].options.language, bundle.jobs[1].work_s, bundle.deadline_s) == ("en", 0.5, flight.burst.deadline_s)
    assert (box.ledger().spent_usd, box.ledger().reserved_usd, box.ledger().calls, box.ledger().jobs) == (WHOLE_USD, 0, 1, 2)


def test_what_was_paid_for_is_taken_though_a_forgotten_life_of_the_job_has_its_name(box: BurstBox) -> None:
    job = box.box.submit()
    box.box.files.write_once(result_key(job.id, 1), b"of before Redis was restored from an older copy")
    box.begin(job)
    box.until_settled()
    assert state(box, job) == (JobState.SUCCEEDED, 1, 0, 0)
    assert b'"runner":"modal"' in box.box.files.read(box.store.get(job.id).result_key or "")


def test_what_a_client_notes_of_its_job_stays_here(either: BurstBox) -> None:
    job = either.box.submit(metadata={"patient": "J. Doe"})
    either.begin(job)
    either.until_settled()
    (call,) = either.server.calls.values()
    assert "J. Doe" not in str(call.args)
    assert (state(either, job)[0], either.store.get(job.id).options.metadata) == (JobState.SUCCEEDED, {"patient": "J. Doe"})


def test_each_job_of_a_bundle_ends_as_its_receipt_says(box: BurstBox) -> None:
    good, damaged, broken, overdue = (box.box.submit() for _ in range(4))
    says = {
        good.id: succeeded,
        damaged.id: ended(Outcome.FAILED, "invalid_media"),
        broken.id: ended(Outcome.BROKE, "engine_failed"),
        overdue.id: ended(Outcome.RETURNED, "overdue"),
    }
    box.says = lambda job: says[job.id](job)
    box.begin(good, damaged, broken, overdue)
    box.until_settled()
    assert state(box, good)[0] == JobState.SUCCEEDED
    failure = box.store.get(damaged.id).error
    assert failure is not None
    assert (state(box, damaged)[0], failure.code) == (JobState.FAILED, "invalid_media")
    assert state(box, broken) == (JobState.QUEUED, 1, 0, 0)
    assert state(box, overdue) == (JobState.QUEUED, 1, 0, 1)
    assert box.ledger().reserved_usd == 0


def test_a_job_that_the_reply_forgets_goes_back(box: BurstBox) -> None:
    kept, forgotten = box.box.submit(), box.box.submit()
    box.says = lambda job: succeeded(job).model_copy(update={"job_id": kept.id}) if job.id == forgotten.id else succeeded(job)
    box.begin(kept, forgotten)
    box.until_settled()
    assert state(box, kept)[0] == JobState.SUCCEEDED
    runs_here(box, forgotten)


def test_a_transcript_that_is_not_whole_is_not_taken(box: BurstBox) -> None:
    job = box.box.submit()
    box.says = lambda asked: succeeded(asked).model_copy(update={"sha256": "0" * 64})
    box.begin(job)
    box.until_settled()
    assert box.files_of(job) == ["input"]
    runs_here(box, job)


def test_a_call_that_was_preempted_and_run_twice_has_one_result(box: BurstBox) -> None:
    job = box.box.submit()
    box.server.conducts = [Conduct(runs=2)]
    box.begin(job)
    box.until_settled()
    assert len(box.heard) == 2
    assert state(box, job) == (JobState.SUCCEEDED, 1, 0, 0)
    assert box.ledger().spent_usd == WHOLE_USD
    assert box.files_of(job) == ["input", "transcript-1.json"]


def test_a_call_that_no_container_has_begun_is_taken_back(box: BurstBox) -> None:
    job = box.box.submit()
    box.server.conducts = [Conduct(starts=threading.Event())]
    flight = box.begin(job)
    wait_for(lambda: flight.call_id, "the call to be made")
    box.bridge.take_back(flight.burst.id)
    box.until_settled()
    assert box.server.calls[str(flight.call_id)].terminates_containers
    assert state(box, job) == (JobState.QUEUED, 1, 0, 0)
    assert DOLLARS_PER_S * SCALEDOWN_S < box.ledger().spent_usd < RESERVE_USD
    runs_here(box, job)


def test_a_call_that_has_begun_is_left_to_run(box: BurstBox) -> None:
    job, ends = box.box.submit(), threading.Event()
    box.server.conducts = [Conduct(ends=ends)]
    flight = box.begin(job)
    wait_for(lambda: flight.call_id and box.server.calls[flight.call_id].runs, "the call to begin")
    box.bridge.take_back(flight.burst.id)
    wait_for(lambda: flight.has_started, "Modal to say so")
    ends.set()
    box.until_settled()
    assert state(box, job)[0] == JobState.SUCCEEDED


def test_a_call_that_is_overdue_is_ended_with_its_container(box: BurstBox) -> None:
    job = box.box.submit()
    box.server.conducts = [Conduct(ends=threading.Event())]
    box.startup_s = 0.2
    box.bridge = box.another()
    flight = box.begin(job, deadline_s=0.2)
    box.until_settled()
    assert flight.landed is not None
    assert flight.landed.recall == Recall.OVERDUE
    assert box.server.calls[str(flight.call_id)].terminates_containers
    assert state(box, job) == (JobState.QUEUED, 1, 0, 1)
    assert DOLLARS_PER_S * SCALEDOWN_S < box.ledger().spent_usd < RESERVE_USD
    runs_here(box, job)


def test_a_cancel_reaches_the_container_once_nobody_wants_its_jobs(box: BurstBox) -> None:
    first, second = box.box.submit(), box.box.submit()
    box.server.conducts = [Conduct(ends=threading.Event())]
    flight = box.begin(first, second)
    wait_for(lambda: flight.call_id, "the call to be made")
    box.store.cancel(first.id)
    box.bridge.step()
    assert state(box, first)[0] == JobState.CANCELLED
    assert not box.server.calls[str(flight.call_id)].is_cancelled.is_set()
    box.store.delete(second.id)
    box.until_settled()
    assert box.server.calls[str(flight.call_id)].terminates_containers
    assert box.ledger().reserved_usd == 0


def test_a_result_that_comes_after_the_cancel_is_dropped(box: BurstBox) -> None:
    cancelled, other, ends = box.box.submit(), box.box.submit(), threading.Event()
    box.server.conducts = [Conduct(ends=ends)]
    box.begin(cancelled, other)
    box.store.cancel(cancelled.id)
    box.step_until(lambda: box.store.get(cancelled.id).state == JobState.CANCELLED, "the cancel to be heard")
    ends.set()
    box.until_settled()
    assert (box.store.get(cancelled.id).state, box.store.get(cancelled.id).result_key) == (JobState.CANCELLED, None)
    wait_for(lambda: box.files_of(cancelled) == ["input"], "the result to be dropped")
    assert state(box, other)[0] == JobState.SUCCEEDED


def test_a_dispatcher_that_died_before_the_call_was_made_leaves_nothing_held(box: BurstBox) -> None:
    job = box.box.submit()
    box.bursts.intend("b", [job.id], Runner("modal", "bridge"), lease_s=60, deadline_s=60, reserve_usd=RESERVE_USD, caps=box.caps)
    box.bridge = box.another()
    box.until_settled()
    assert state(box, job) == (JobState.QUEUED, 1, 0, 0)
    assert (box.ledger().spent_usd, box.ledger().reserved_usd) == (RESERVE_USD, 0)
    assert box.server.calls == {}
    runs_here(box, job)


def test_a_call_whose_id_nobody_kept_changes_nothing_when_it_ends(box: BurstBox) -> None:
    """The dispatcher died between the spawn and keeping the call's id."""
    job, ends = box.box.submit(), threading.Event()
    box.server.conducts = [Conduct(ends=ends)]
    box.begin(job)
    box.call_kept()
    box.box.redis.hdel(f"spillway:burst:{box.bursts.under_way()[0].id}", "call_id")
    first, box.bridge = box.bridge, box.another()
    box.until_settled()
    ends.set()
    runs_here(box, job)
    wait_for(lambda: all(flight.landed for flight in first.flights.values()), "the first dispatcher's thread to hear of it")
    first.step()
    assert state(box, job) == (JobState.SUCCEEDED, 2, 0, 0)
    assert (box.ledger().spent_usd, box.ledger().reserved_usd) == (RESERVE_USD, 0)


def test_the_next_dispatcher_brings_home_what_the_last_one_sent(box: BurstBox) -> None:
    job, ends = box.box.submit(), threading.Event()
    box.server.conducts = [Conduct(ends=ends)]
    flight = box.begin(job)
    box.call_kept()
    box.bridge.close()
    assert flight.landed is None
    ends.set()
    box.bridge = box.another()
    box.until_settled()
    assert state(box, job) == (JobState.SUCCEEDED, 1, 0, 0)
    assert len(box.server.calls) == 1
    assert box.ledger().spent_usd == pytest.approx(WHOLE_USD)


def test_a_dispatcher_that_was_down_for_longer_than_a_lease_finds_its_jobs_still_its_own(box: BurstBox) -> None:
    job, ends = box.box.submit(), threading.Event()
    box.server.conducts = [Conduct(ends=ends)]
    box.begin(job)
    box.call_kept()
    box.bridge.close()
    box.box.redis.zadd("spillway:leases", {job.id: 1})  # long ago
    box.bridge = box.another()
    box.bridge.step()
    assert box.store.reclaim_expired(max_losses=3) == {}
    ends.set()
    box.until_settled()
    assert state(box, job) == (JobState.SUCCEEDED, 1, 0, 0)
    assert box.ledger().spent_usd == pytest.approx(WHOLE_USD)


def test_two_dispatchers_that_both_think_they_lead_commit_once(box: BurstBox) -> None:
    job, ends = box.box.submit(), threading.Event()
    box.server.conducts = [Conduct(ends=ends)]
    box.begin(job)
    box.call_kept()
    other = box.another()
    other.step()
    ends.set()
    wait_for(lambda: all(flight.landed for each in (box.bridge, other) for flight in each.flights.values()), "both to have the reply")
    other.step()
    box.bridge.step()
    assert state(box, job) == (JobState.SUCCEEDED, 1, 0, 0)
    assert box.ledger().spent_usd == pytest.approx(WHOLE_USD)
    assert box.ledger().calls == 1


@pytest.mark.parametrize("outcome", ["contract", "stack"])
def test_another_release_on_modal_stops_bursting(box: BurstBox, outcome: str) -> None:
    job = box.box.submit()
    if outcome == "contract":
        box.server.remote = lambda _: Reply(refusal=mismatch("the deployment is older")).plain()
    else:
        box.container = box.container.model_copy(update={"stack": Stack(lock_sha256="9" * 64, models_sha256="2" * 64)})
    box.begin(job)
    box.until_settled()
    assert box.bridge.breaker.is_open
    assert "modal deploy" in box.bridge.breaker.reason
    assert state(box, job)[0] == (JobState.QUEUED if outcome == "contract" else JobState.SUCCEEDED)


def test_what_is_measured_is_remembered_by_the_next_dispatcher(box: BurstBox) -> None:
    box.begin(box.box.submit(duration_s=120))
    box.until_settled()
    box.bridge = box.another()
    box.gauges.read()
    assert box.gauges.cold_start_s >= 20
    assert box.gauges.real_time_factor == pytest.approx(120 / SECONDS)


def test_the_time_a_container_waits_is_paid_by_the_last_call(box: BurstBox) -> None:
    first, second, ends = box.box.submit(), box.box.submit(), threading.Event()
    box.container = box.container.model_copy(update={"bundles_before": 1})
    box.server.conducts = [Conduct(), Conduct(ends=ends)]
    box.begin(first)
    box.begin(second)
    box.step_until(lambda: len(box.bursts.under_way()) == 1, "the first to be settled")
    assert box.ledger().spent_usd == pytest.approx(DOLLARS_PER_S * SECONDS)
    ends.set()
    box.until_settled()
    assert box.ledger().spent_usd == pytest.approx(DOLLARS_PER_S * (2 * SECONDS + 30))


def test_a_breaker_opens_with_a_failure_and_closes_with_a_success(box: BurstBox) -> None:
    not_deployed(box)
    box.begin(box.box.submit())
    box.until_settled()
    assert box.bridge.breaker.is_open
    box.server.is_deployed = True
    box.begin(box.box.submit())
    box.until_settled()
    assert (box.bridge.breaker.is_open, box.bridge.breaker.reason) == (False, "")


def test_a_receipt_of_another_attempt_is_not_taken(box: BurstBox) -> None:
    job = box.box.submit()

    def says(_: object) -> Receipt:
        return Receipt(job_id=job.id, attempt=7, outcome=Outcome.SUCCEEDED)

    box.says = says
    box.begin(job)
    box.until_settled()
    assert state(box, job)[0] == JobState.QUEUED


def test_workers_of_this_box_that_have_said_nothing_stop_no_burst(box: BurstBox) -> None:
    box.own_stacks = set()
    box.begin(box.box.submit())
    box.until_settled()
    assert not box.bridge.breaker.is_open
