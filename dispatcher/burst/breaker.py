"""Whether it is worth trying Modal: after a failure not for a while, after several for longer."""

from collections.abc import Callable
from time import monotonic

from dispatcher.burst.calls import CallFailed, Why

FIRST_PAUSE_S, LONGEST_PAUSE_S = 30.0, 1800.0
NEEDS_SOMEBODY_S = 600.0  # what waits for a person is looked at this often: a deployment is noticed by itself


class Breaker:
    """Open after a failure; when its pause is over one burst may try, and a success closes it."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._failures, self._until = 0, 0.0
        self.reason = ""  # of the last failure; empty once a call succeeded

    @property
    def is_open(self) -> bool:
        return self._clock() < self._until

    @property
    def is_tried(self) -> bool:
        """Closed, but not yet by a success: one call at a time."""
        return bool(self._failures)

    def failed(self, error: CallFailed) -> None:
        self._failures += 1
        self.reason = str(error)
        pause_s = NEEDS_SOMEBODY_S if error.why == Why.REFUSED else min(FIRST_PAUSE_S * 2 ** min(self._failures - 1, 10), LONGEST_PAUSE_S)
        self._until = self._clock() + pause_s

    def succeeded(self) -> None:
        self._failures, self._until, self.reason = 0, 0.0, ""
