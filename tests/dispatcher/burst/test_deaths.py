"""A dispatcher that dies after each step of a burst, and another that takes over: nothing is lost or doubled, and the ledger is right."""

import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from core.burst import Bundle, Reply
from core.crash_points import EVENT
from core.job import JobState
from dispatcher.burst.calls import ModalCalls
from dispatcher.burst.flight import Stopped
from tests.conftest import wait_for
from tests.dispatcher.burst.box import RESERVE_USD, WHOLE_USD, BurstBox, is_there, key_of, runs_here, state


class Deaths:
    """Ends the thread that passes the armed point, once: nothing that it would have done afterwards happens."""

    def __init__(self) -> None:
        self.armed, self.has_struck = "", False

    def pass_by(self, point: str) -> None:
        if point == self.armed:
            self.armed, self.has_struck = "", True
            raise SystemExit(point) if threading.current_thread() is threading.main_thread() else Stopped

    def hear(self, event: str, given: tuple[object, ...]) -> None:
        if event == EVENT and self.armed:
            self.pass_by(f"{given[0]}:{str(given[1]).rpartition('/')[2]}")


DEATHS = Deaths()
sys.addaudithook(DEATHS.hear)  # for good: Python removes none


class Mortal(ModalCalls):
    def spawn(self, bundle: Bundle, recordings: object) -> str:
        call_id = super().spawn(bundle, recordings)  # type: ignore[arg-type]
        DEATHS.pass_by("spawn")
        return call_id

    def poll(self, call_id: str) -> Reply | None:
        reply = super().poll(call_id)
        if reply is not None:
            DEATHS.pass_by("poll")
        return reply


@dataclass(frozen=True)
class Death:
    after: str
    calls: int
    comes_home: bool  # from Modal; else the job goes back to the queue
    spent_usd: float


@pytest.fixture(autouse=True)
def _nobody_dies_later() -> Iterator[None]:
    yield
    DEATHS.armed, DEATHS.has_struck = "", False


@pytest.mark.parametrize(
    "death",
    [
        Death("step:burst", 0, False, RESERVE_USD),
        Death("spawn", 1, False, RESERVE_USD),
        Death("step:burst_called", 1, True, WHOLE_USD),
        Death("poll", 1, True, WHOLE_USD),
        Death("step:finish", 1, True, WHOLE_USD),
        Death("step:burst_settled", 1, True, WHOLE_USD),
    ],
    ids=lambda death: death.after,
)
def test_whoever_comes_after_brings_it_to_its_end(either: BurstBox, death: Death) -> None:
    _dies_and_is_followed(either, death)


def test_whoever_comes_after_takes_the_result_that_lies_there(box: BurstBox) -> None:
    """In a bucket the container has put it there."""
    _dies_and_is_followed(box, Death("placed:transcript-1.json", 1, True, WHOLE_USD))


def test_whoever_comes_after_one_that_died_as_it_gave_an_intent_up_ends_it(box: BurstBox) -> None:
    job = box.box.submit()
    box.calls = Mortal
    box.bridge = box.another()
    for point in ("step:burst", "step:release"):
        DEATHS.armed, DEATHS.has_struck = point, False
        _live(box, job.id)
        box.bridge = box.another()
    box.until_settled()
    assert (state(box, job), box.server.calls) == ((JobState.QUEUED, 1, 0, 0), {})
    assert (box.ledger().spent_usd, box.ledger().reserved_usd) == (RESERVE_USD, 0)


def _dies_and_is_followed(box: BurstBox, death: Death) -> None:
    job = box.box.submit()
    box.calls = Mortal
    box.bridge = box.another()
    DEATHS.armed = death.after
    _live(box, job.id)
    box.bridge = box.another()
    box.until_settled()
    expected = JobState.SUCCEEDED if death.comes_home else JobState.QUEUED
    assert state(box, job) == (expected, 1, 0, 0)
    if not death.comes_home:
        runs_here(box, job)
    else:
        assert is_there(box, key_of(box.store.get(job.id)))
    assert len(box.server.calls) == death.calls
    assert box.ledger().spent_usd == pytest.approx(death.spent_usd)
    assert (box.ledger().reserved_usd, box.ledger().calls, box.ledger().jobs) == (0, 1, 1)


def _live(box: BurstBox, job_id: str) -> None:
    """Until it dies."""
    try:
        if not box.bursts.under_way():
            box.bridge.begin((job_id,), reserve_usd=RESERVE_USD, deadline_s=60)

        def stepped() -> bool:
            if not DEATHS.has_struck:
                box.bridge.step()
            return DEATHS.has_struck

        wait_for(stepped, "its death")
    except SystemExit:
        pass
