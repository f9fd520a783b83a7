"""When a worker that takes no jobs is taken for deaf."""

from collections.abc import Callable, Iterable

import pytest

from core.errors import StoreUnavailable
from worker.hearing import DEAF_AFTER, TIME_TO_SUBSCRIBE, Hearing

Look = tuple[int | None, bool | None]
UNHEARD: Look = (7, True)  # claims tried until now, None while it has no reason to; whether wake-ups wait
CALM: Look = (7, False)
AWAY: Look = (7, None)  # Redis, when it is asked


def verdicts(looks: Iterable[Look]) -> list[bool]:
    now: Look = CALM

    def is_called() -> bool:
        if now[1] is None:
            raise StoreUnavailable("away")
        return now[1]

    hearing, found = Hearing(lambda: now[0], is_called, lambda _: None), []
    for look in looks:
        now = look
        found.append(hearing.look())
    return found


LONG = 3 * (DEAF_AFTER + TIME_TO_SUBSCRIBE)


def test_one_that_hears_nothing_for_five_sweeps_is_deaf() -> None:
    assert verdicts([UNHEARD] * LONG).index(True) == TIME_TO_SUBSCRIBE + DEAF_AFTER


@pytest.mark.parametrize(
    "look",
    [
        lambda n: (n, True),  # it tries, and what is pending does not fit or is claimed by others
        lambda _: (None, True),  # it has jobs, stops, or waits for its file store
        lambda _: CALM,
        lambda n: AWAY if n % 5 == 0 else UNHEARD,
        lambda n: CALM if n % 5 == 0 else UNHEARD,
    ],
    ids=["claims in vain", "busy", "nothing waits", "redis away now and then", "hears in time"],
)
def test_one_that_hears_is_not(look: Callable[[int], Look]) -> None:
    assert not any(verdicts(map(look, range(LONG))))


def test_after_redis_was_away_it_has_time_to_subscribe_again() -> None:
    before = [CALM, *[UNHEARD] * (TIME_TO_SUBSCRIBE + DEAF_AFTER - 1)]
    found = verdicts([*before, AWAY, *[UNHEARD] * LONG])
    assert found.index(True) == len(before) + TIME_TO_SUBSCRIBE + DEAF_AFTER
