"""A virtual clock: what is to happen, in order."""

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import inf

Act = Callable[[], None]


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0
        self._order = count()
        self._events: list[tuple[float, int, Act]] = []

    def at(self, at_s: float, act: Act) -> None:
        heappush(self._events, (at_s, next(self._order), act))

    def next_s(self) -> float:
        return self._events[0][0] if self._events else inf

    def pop(self) -> Act:
        return heappop(self._events)[2]
