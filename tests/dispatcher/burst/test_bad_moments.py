"""What goes wrong around a call while it is under way: late dispatchers, a full disk, a Redis that is away, jobs that are gone."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from grpclib import Status
from redis import Redis

from core.burst import Outcome, Receipt
from core.errors import DiskFull, StoreUnavailable
from core.job import JobState
from core.job_store import Runner
from core.partial_file import StoredFile
from dispatcher.burst import flight as flights
from dispatcher.burst.cargo import Cargo
from dispatcher.burst.flight import Recall
from tests.conftest import RedisServer, wait_for
from tests.dispatcher.burst.box import RESERVE_USD, SECONDS, WHOLE_USD, BurstBox, ended, pack_when, runs_here, state
from tests.modal_server import Call, Conduct, ModalServer
from tests.modal_wire import Fault
from tests.worker.box import Box

LONG_AGO_MS = 3 * 3600 * 1000


def called_long_ago(box: BurstBox) -> None:
    key = f"spillway:burst:{box.bursts.under_way()[0].id}"
    box.box.redis.hincrby(key, "called_at", -LONG_AGO_MS)


def test_a_reply_that_lay_there_for_hours_is_taken(box: BurstBox) -> None:
    """The dispatcher was down for longer than the call might run: Modal keeps results for days."""
    job, ends = box.box.submit(), threading.Event()
    box.server.conducts = [Conduct(ends=ends)]
    box.begin(job)
    box.call_kept()
    box.bridge.close()
    ends.set()
    called_long_ago(box)
    box.bridge = box.another()
    box.until_settled()
    assert state(box, job) == (JobState.SUCCEEDED, 1, 0, 0)
    assert box.ledger().spent_usd == pytest.approx(WHOLE_USD)


def test_a_call_of_hours_ago_that_never_ended_costs_no_more_than_modal_lets_it_run(box: BurstBox) -> None:
    job = box.box.submit()
    box.server.conducts = [Conduct(ends=threading.Event())]
    box.begin(job)
    call_id = box.call_kept()
    box.bridge.close()
    called_long_ago(box)
    box.bridge = box.another()
    box.until_settled()
    assert box.server.calls[call_id].terminates_containers
    assert state(box, job) == (JobState.QUEUED, 1, 0, 1)
    assert box.ledger().spent_usd == pytest.approx(0.001 * (700 + 30))


def test_a_call_whose_jobs_went_while_nobody_looked_is_ended(box: BurstBox) -> None:
    job = box.box.submit()
    box.server.conducts = [Conduct(ends=threading.Event())]
    box.begin(job)
    call_id = box.call_kept()
    box.bridge.close()
    box.store.delete(job.id)
    box.bridge = box.another()
    box.until_settled()
    assert box.server.calls[call_id].terminates_containers
    assert (box.ledger().spent_usd < RESERVE_USD, box.ledger().reserved_usd) == (True, 0)


def test_a_call_that_nobody_wants_before_it_is_sent_is_not_made(box: BurstBox, monkeypatch: pytest.MonkeyPatch) -> None:
    job, packs = box.box.submit(), threading.Event()
    pack_when(packs, monkeypatch)
    flight = box.begin(job)
    box.store.cancel(job.id)
    box.step_until(lambda: flight.recall, "the cancel to be heard")
    packs.set()
    box.until_settled()
    assert (state(box, job)[0], box.server.calls, box.bridge.breaker.is_open) == (JobState.CANCELLED, {}, False)
    assert (box.ledger().spent_usd, box.ledger().reserved_usd) == (0, 0)


def test_a_dispatcher_that_stops_while_it_packs_has_made_no_call(box: BurstBox, monkeypatch: pytest.MonkeyPatch) -> None:
    job, stops = box.box.submit(), threading.Event()

    def packing(_: Cargo, __: object, check: object) -> bytes:
        while not stops.wait(0.01):
            check()  # type: ignore[operator]
        return b""

    monkeypatch.setattr(Cargo, "_flac", packing)
    flight = box.begin(job)
    box.bridge.close()
    assert flight.thread is not None
    assert not flight.thread.is_alive()
    monkeypatch.undo()
    monkeypatch.setenv("MODAL_SERVER_URL", box.server.url)
    box.bridge = box.another()
    box.until_settled()
    assert (state(box, job), box.server.calls) == ((JobState.QUEUED, 1, 0, 0), {})
    runs_here(box, job)


@pytest.mark.parametrize("fault", [DiskFull("full"), OSError(5, "Input/output error")], ids=["full", "broken"])
def test_a_file_store_that_takes_nothing_is_waited_for_with_the_results_in_hand(
    box: BurstBox, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    job, has_room, tries = box.box.submit(), threading.Event(), threading.Semaphore(0)
    write_once = box.box.files.write_once

    def written(key: str, content: bytes) -> StoredFile:
        tries.release()
        if not has_room.is_set():
            raise fault
        return write_once(key, content)

    monkeypatch.setattr(box.box.files, "write_once", written)
    box.begin(job)
    for _ in range(2):
        tries.acquire(timeout=20)
        box.bridge.step()
    assert state(box, job) == (JobState.RUNNING, 1, 0, 0)
    has_room.set()
    box.until_settled()
    assert state(box, job) == (JobState.SUCCEEDED, 1, 0, 0)


def test_results_that_nobody_wants_wait_for_no_disk(box: BurstBox, monkeypatch: pytest.MonkeyPatch) -> None:
    job, tries = box.box.submit(), threading.Semaphore(0)

    def full(_: str, __: bytes) -> StoredFile:
        tries.release()
        raise DiskFull("full")

    monkeypatch.setattr(box.box.files, "write_once", full)
    box.begin(job)
    tries.acquire(timeout=20)
    box.store.cancel(job.id)
    box.until_settled()
    assert state(box, job)[0] == JobState.CANCELLED


def test_redis_away_while_a_call_runs_and_at_its_commit(
    tmp_path: Path, ffmpeg: str, modal_server: ModalServer, redis_server: RedisServer
) -> None:
    worker = Box(redis_server.url, tmp_path / "files", ffmpeg)
    box = BurstBox(worker, tmp_path / "files", modal_server)
    ends = threading.Event()
    modal_server.conducts = [Conduct(ends=ends)]
    job = worker.submit()
    flight = box.begin(job)
    box.call_kept()
    redis_server.stop()
    with pytest.raises(StoreUnavailable):
        box.bridge.step()
    ends.set()
    wait_for(lambda: flight.landed, "the reply")
    with pytest.raises(StoreUnavailable):
        box.bridge.step()
    redis_server.start()
    box.until_settled()
    assert state(box, job) == (JobState.SUCCEEDED, 1, 0, 0)
    assert box.ledger().spent_usd == pytest.approx(WHOLE_USD)
    assert box.ledger().reserved_usd == 0
    box.close()
    worker.close()


def test_an_intent_whose_reply_was_lost_costs_nothing(box: BurstBox, monkeypatch: pytest.MonkeyPatch) -> None:
    job, intend = box.box.submit(), box.bursts.intend

    def lost(*given: object, **more: object) -> None:
        intend(*given, **more)  # type: ignore[arg-type]
        raise StoreUnavailable("away")

    with monkeypatch.context() as broken:
        broken.setattr(box.bursts, "intend", lost)
        with pytest.raises(StoreUnavailable):
            box.begin(job)
    box.until_settled()
    assert state(box, job) == (JobState.QUEUED, 1, 0, 0)
    assert (box.ledger().spent_usd, box.ledger().reserved_usd) == (0, 0)


def test_a_question_that_modal_does_not_answer_ends_no_call(box: BurstBox) -> None:
    """Whether the call waits for a container could not be told: it is left to run, and its result comes."""
    job, ends = box.box.submit(), threading.Event()
    box.server.conducts = [Conduct(ends=ends)]
    flight = box.begin(job)
    box.call_kept()
    box.server.faults = [Fault("FunctionGetCurrentStats", Status.UNAVAILABLE, "gone", times=8)]
    box.bridge.take_back(flight.burst.id)
    wait_for(lambda: not box.server.faults or box.server.faults[0].times == 0, "Modal to be asked in vain")
    ends.set()
    box.until_settled()
    assert state(box, job) == (JobState.SUCCEEDED, 1, 0, 0)


def test_only_a_call_that_surely_waits_is_taken_back(box: BurstBox) -> None:
    """Modal tells how many wait, not which."""
    running, waiting = box.box.submit(), box.box.submit()
    ends, starts = threading.Event(), threading.Event()
    box.server.conducts = [Conduct(ends=ends), Conduct(starts=starts)]
    first = box.begin(running)
    wait_for(lambda: first.call_id and box.server.calls[first.call_id].runs, "the first call to begin")
    second = box.begin(waiting)
    wait_for(lambda: second.call_id, "the second call to be made")
    box.bridge.take_back(first.burst.id)
    wait_for(lambda: not first.back_if_waiting, "Modal to be asked")
    starts.set()
    ends.set()
    box.until_settled()
    assert [state(box, job) for job in (running, waiting)] == [(JobState.SUCCEEDED, 1, 0, 0)] * 2


def test_modal_away_for_too_long_gives_the_jobs_back_without_blaming_them(box: BurstBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flights, "AWAY_MOST_S", 0.2)
    box.startup_s = 0.2
    box.bridge = box.another()
    job = box.box.submit()
    box.server.conducts = [Conduct(ends=threading.Event())]
    flight = box.begin(job, deadline_s=0.2)
    wait_for(lambda: flight.call_id, "the call to be made")
    box.server.faults = [Fault("FunctionGetOutputs", Status.UNAVAILABLE, "gone", times=100)]
    box.until_settled()
    assert state(box, job) == (JobState.QUEUED, 1, 0, 0)
    assert box.ledger().spent_usd >= RESERVE_USD
    assert "not to be reached" in box.bridge.breaker.reason


@pytest.mark.parametrize(
    ("outcome", "code", "is_blamed"),
    [
        (Outcome.RETURNED, "storage_unavailable", False), (Outcome.LOST, "lost", False), (Outcome.RETURNED, "overdue", True),
        (Outcome.SUCCEEDED, "no transcript", True),
    ],
)  # fmt: skip
def test_a_job_that_came_back_is_blamed_only_for_what_it_may_have_done(box: BurstBox, outcome: Outcome, code: str, is_blamed: bool) -> None:
    job = box.box.submit()
    box.says = ended(outcome, code)
    box.begin(job)
    box.until_settled()
    assert state(box, job) == (JobState.QUEUED, 1, 0, int(is_blamed))
    assert box.bridge.breaker.is_open == (outcome != Outcome.SUCCEEDED)


def test_a_container_on_which_every_job_breaks_is_not_well(box: BurstBox) -> None:
    box.says = ended(Outcome.BROKE, "engine_failed")
    box.begin(box.box.submit(), box.box.submit())
    box.until_settled()
    assert "ended none of its jobs: it is engine_failed" in box.bridge.breaker.reason


def test_jobs_that_fail_at_once_say_nothing_of_speed(box: BurstBox) -> None:
    box.says = ended(Outcome.FAILED, "invalid_media")
    box.begin(box.box.submit(duration_s=3000))
    box.until_settled()
    assert "real_time_factor" not in box.bursts.measured()
    assert not box.bridge.breaker.is_open


def test_a_stage_that_nobody_knows_is_a_reply_that_cannot_be_read(box: BurstBox) -> None:
    job = box.box.submit()
    answer = box.answer

    def strange(call: object) -> object:
        reply = answer(call)  # type: ignore[arg-type]
        reply["receipts"][0]["products"] = {"dream": "jobs/x"}
        return reply

    box.server.remote = strange
    box.begin(job)
    box.until_settled()
    assert state(box, job) == (JobState.QUEUED, 1, 0, 0)
    assert "cannot be read" in box.bridge.breaker.reason


@pytest.mark.parametrize("nonsense", [{"seconds": 1e300}, {"stages_s": {"asr": 1e300}}], ids=lambda nonsense: next(iter(nonsense)))
def test_a_reply_that_cannot_be_true_stops_nobody(box: BurstBox, nonsense: dict[str, Any]) -> None:
    job, answer = box.box.submit(), box.answer

    def says(call: Call) -> object:
        reply = answer(call)
        place = reply if "seconds" in nonsense else reply["receipts"][0]
        place.update(nonsense)
        return reply

    box.server.remote = says
    box.begin(job)
    box.until_settled()
    assert state(box, job) == (JobState.QUEUED, 1, 0, 0)
    assert (box.ledger().spent_usd, box.ledger().reserved_usd) == (RESERVE_USD, 0)
    assert "cannot be read (1 faults)" in box.bridge.breaker.reason


def test_a_dispatcher_that_lost_its_lead_while_it_sent_ends_its_call(box: BurstBox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next leader finds an intent without a call, and gives its jobs back; then the first one's call goes out."""
    job, packs = box.box.submit(), threading.Event()
    pack_when(packs, monkeypatch)
    box.server.conducts = [Conduct(ends=threading.Event())]
    flight = box.begin(job)
    first, box.bridge = box.bridge, box.another()
    box.until_settled()
    packs.set()
    wait_for(lambda: flight.landed, "the first dispatcher to hear that it was given up")
    assert flight.landed is not None
    assert flight.landed.recall == Recall.GIVEN_UP
    assert box.server.calls[str(flight.call_id)].terminates_containers
    first.step()
    runs_here(box, job)
    assert (box.ledger().spent_usd, box.ledger().reserved_usd) == (RESERVE_USD, 0)


def test_leases_are_renewed_before_they_are_judged_however_late_the_round(box: BurstBox, redis_url: str) -> None:
    job = box.box.submit()
    box.server.conducts = [Conduct(ends=threading.Event())]
    box.begin(job)
    box.call_kept()
    with Redis.from_url(redis_url) as redis:
        redis.zadd("spillway:leases", {job.id: 1})
    box.bridge._renewed -= 60  # the round before is a lease ago
    box.bridge.step()
    assert box.store.reclaim_expired(max_losses=3) == {}
    assert state(box, job) == (JobState.RUNNING, 1, 0, 0)


def test_a_receipt_that_says_less_than_a_result_costs_the_job_a_try_and_no_more(box: BurstBox) -> None:
    job = box.box.submit()
    box.says = lambda asked: Receipt(job_id=asked.id, attempt=asked.attempt, outcome=Outcome.FAILED, seconds=SECONDS)
    box.begin(job)
    box.until_settled()
    assert state(box, job) == (JobState.QUEUED, 1, 0, 1)
    assert box.store.claim(Runner("gpu0", "boot"), lease_s=60, fits_s=10) is not None


def test_a_dispatcher_stops_within_seconds_though_modal_is_silent(box: BurstBox) -> None:
    box.ask_timeout_s = 60
    box.bridge = box.another()
    box.server.conducts = [Conduct(ends=threading.Event())]
    box.begin(box.box.submit())
    box.call_kept()
    box.server.heard.clear()
    box.server.faults = [Fault("FunctionGetOutputs", is_silent=True, times=100)]
    wait_for(lambda: "FunctionGetOutputs" in box.server.heard, "Modal to be asked")
    begun = time.monotonic()
    box.bridge.close()
    assert time.monotonic() - begun < 7  # Docker gives it 15 s with all that it does
