"""Recordings on their way out: what cannot be sent stays, and holds up no other."""

import shutil
import threading

import pytest

from core.job import JobState
from dispatcher.burst.cargo import Cargo
from tests.conftest import wait_for
from tests.dispatcher.burst.box import BurstBox, pack_when, state
from tests.modal_server import Conduct
from tests.worker.box import wav


def test_a_recording_that_cannot_be_sent_is_left_to_a_local_worker(box: BurstBox) -> None:
    good, damaged = box.box.submit(), box.box.submit(b"not a recording at all" * 100)
    box.begin(good, damaged)
    box.until_settled()
    assert state(box, good)[0] == JobState.SUCCEEDED
    assert state(box, damaged) == (JobState.QUEUED, 1, 0, 1)


def test_a_bundle_of_which_nothing_can_be_sent_costs_nothing_and_is_not_sent_again(box: BurstBox) -> None:
    job = box.box.submit(b"not a recording at all" * 100)
    box.begin(job)
    box.until_settled()
    assert state(box, job) == (JobState.QUEUED, 1, 0, 1)
    assert (box.ledger().spent_usd, box.ledger().reserved_usd, box.server.calls) == (0, 0, {})
    assert not box.bridge.breaker.is_open


def test_a_recording_that_cannot_be_sent_is_not_sent_again_in_whichever_moment_that_is_found(
    box: BurstBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, packs = box.box.submit(b"not a recording at all" * 100), threading.Event()
    settle = box.bridge._settle
    pack_when(packs, monkeypatch)
    flight = box.begin(job)

    def just_before() -> int:
        packs.set()
        wait_for(lambda: flight.landed, "the flight to end within the round")
        return settle()

    monkeypatch.setattr(box.bridge, "_settle", just_before)
    box.until_settled()
    assert state(box, job) == (JobState.QUEUED, 1, 0, 1)


def test_a_recording_that_cannot_be_sent_does_not_wait_for_the_others(box: BurstBox) -> None:
    good, damaged = box.box.submit(), box.box.submit(b"not a recording at all" * 100)
    box.server.conducts = [Conduct(ends=threading.Event())]
    box.begin(good, damaged)
    box.step_until(lambda: state(box, damaged)[0] == JobState.QUEUED, "the damaged one to be handed back")
    assert state(box, good)[0] == JobState.RUNNING


def test_recordings_beyond_what_memory_is_for_stay_here(box: BurstBox, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = box.box.submit(), box.box.submit()
    size = len(box.box.ffmpeg.flac(box.folder / "jobs" / first.id / "input", most_s=10))
    monkeypatch.setattr("dispatcher.burst.cargo.MOST_BYTES", size)
    box.begin(first, second)
    box.until_settled()
    assert [state(box, job) for job in (first, second)] == [(JobState.SUCCEEDED, 1, 0, 0), (JobState.QUEUED, 1, 0, 1)]


def test_a_bundle_of_sixty_four_is_one_call(box: BurstBox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cargo, "_flac", lambda *_: b"a recording")
    jobs = [box.box.submit() for _ in range(64)]
    box.begin(*jobs)
    box.until_settled()
    assert {state(box, job) for job in jobs} == {(JobState.SUCCEEDED, 1, 0, 0)}
    assert (len(box.server.calls), box.ledger().jobs) == (1, 64)


def test_a_recording_that_is_gone_is_left_to_a_local_worker_to_tell(box: BurstBox) -> None:
    job = box.box.submit()
    shutil.rmtree(box.folder / "jobs" / job.id)
    box.begin(job)
    box.until_settled()
    assert state(box, job) == (JobState.QUEUED, 1, 0, 1)


def test_a_recording_that_was_damaged_in_the_file_store_is_not_sent(box: BurstBox) -> None:
    job = box.box.submit()
    box.box.files.write(job.input_key, wav(2.0))
    box.begin(job)
    box.until_settled()
    assert (state(box, job), box.server.calls) == ((JobState.QUEUED, 1, 0, 1), {})
