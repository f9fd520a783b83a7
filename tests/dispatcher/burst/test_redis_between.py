"""A Redis that goes between any two questions of the loop, before it heard the question or before its answer came, and is back at once."""

import threading
from itertools import count
from typing import Any

import pytest
from redis.exceptions import ConnectionError

from core.bursts import Caps
from core.errors import StoreUnavailable
from core.job import Job, JobState
from tests.conftest import wait_for
from tests.dispatcher.burst.box import WHOLE_USD, BurstBox, is_there, key_of


class Outage:
    """At the `at`th question of the test's own thread, which is the loop's."""

    def __init__(self, redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ask, self._loop, self._asked, self._at, self._loses_reply = redis.execute_command, threading.get_ident(), 0, 0, False
        monkeypatch.setattr(redis, "execute_command", self._ask_or_fail)

    def arm(self, at: int, *, loses_reply: bool) -> None:
        self._asked, self._at, self._loses_reply = 0, at, loses_reply

    @property
    def is_over(self) -> bool:
        return self._asked >= self._at

    def _ask_or_fail(self, *command: Any, **options: Any) -> Any:
        if threading.get_ident() == self._loop:
            self._asked += 1
            if self._asked == self._at:
                if self._loses_reply:
                    self._ask(*command, **options)
                raise ConnectionError("gone")
        return self._ask(*command, **options)


@pytest.fixture
def outage(box: BurstBox, monkeypatch: pytest.MonkeyPatch) -> Outage:
    return Outage(box.box.redis, monkeypatch)


def lives(box: BurstBox, job: Job) -> bool:
    """A round of the dispatcher, which may break off: it takes the job when it waits. Whether all has ended."""
    try:
        if box.store.get(job.id).state == JobState.QUEUED:
            box.begin(job)
        wait_for(lambda: all(flight.landed for flight in box.bridge.flights.values()), "what is under way to land")
        box.bridge.step()
        return box.store.get(job.id).state.is_terminal and not box.bursts.under_way()
    except StoreUnavailable:
        return False


@pytest.mark.parametrize("loses_reply", [False, True], ids=["question lost", "answer lost"])
def test_a_job_that_goes_and_comes_home_does_so_once(box: BurstBox, outage: Outage, loses_reply: bool) -> None:
    box.caps = Caps(100, 100)
    box.bridge = box.another()
    for at in count(1):
        job = box.box.submit()
        outage.arm(at, loses_reply=loses_reply)
        wait_for(lambda job=job: lives(box, job), f"the job to end, with Redis away at question {at}")  # type: ignore[misc]
        if not outage.is_over:
            break
        ended, day = box.store.get(job.id), box.ledger()
        assert (ended.state, ended.losses, ended.burst_failures) == (JobState.SUCCEEDED, 0, 0), at
        assert is_there(box, key_of(ended))
        assert day.spent_usd == pytest.approx(at * WHOLE_USD), at
        assert day.reserved_usd == 0, at
    outage.arm(0, loses_reply=False)
    assert at > 15, "too few questions were asked"
