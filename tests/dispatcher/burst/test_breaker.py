"""How long Modal is left alone after it failed."""

import pytest

from dispatcher.burst.breaker import Breaker
from dispatcher.burst.calls import CallFailed, Why

AWAY, REFUSED, BROKE = (CallFailed(why, f"it is {why}") for why in (Why.AWAY, Why.REFUSED, Why.BROKE))


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def pause_s(breaker: Breaker, clock: Clock) -> float:
    """Until it closes by itself."""
    begun = clock.now_s
    while breaker.is_open:
        clock.now_s += 1
    return clock.now_s - begun


@pytest.mark.parametrize(
    ("failures", "pauses_s"),
    [
        ([AWAY] * 8, [30, 60, 120, 240, 480, 960, 1800, 1800]),
        ([BROKE, AWAY], [30, 60]),
        ([REFUSED] * 3, [600, 600, 600]),
    ],
    ids=["away", "broke", "refused"],
)
def test_it_pauses_for_longer_each_time_and_for_what_needs_somebody_always_the_same(
    failures: list[CallFailed], pauses_s: list[float]
) -> None:
    breaker = Breaker(clock := Clock())
    paused = []
    for failure in failures:
        breaker.failed(failure)
        assert breaker.reason == str(failure)
        paused.append(pause_s(breaker, clock))
    assert paused == pauses_s
    assert breaker.is_tried


def test_a_success_forgets_the_failures() -> None:
    breaker = Breaker(clock := Clock())
    breaker.failed(AWAY)
    breaker.failed(AWAY)
    breaker.succeeded()
    assert (breaker.is_open, breaker.is_tried, breaker.reason) == (False, False, "")
    breaker.failed(AWAY)
    assert pause_s(breaker, clock) == 30
