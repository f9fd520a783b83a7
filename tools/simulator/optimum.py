"""The least that a clairvoyant could pay: a floor under every policy that starts jobs in the order of the queue.

Time is cut into slots, audio is a fluid, and dynamic programming over (slot, backlog, containers) finds the cheapest plan of when
containers run, for one that knows every arrival. Whatever the cut leaves open is decided in the clairvoyant's favour:

- jobs come at the beginning of their slot and are due at its end; the backlog is rounded down;
- the local GPUs hold all the audio that they may, and every container a job of the longest length, before it counts as unstarted;
- uploads and calls take no time; a container is up at the moment it is wanted, and only pays for its start-up, of median length, and
  for its scale-down.

The 5 % that may be late are priced: for any price per late job, the cheapest plan with that price, less the price of the late jobs
that are allowed, is no more than the cheapest plan that keeps the promise (weak duality); the largest of them is the floor.
So it is a lower bound, not a plan that anybody found: the true optimum lies between it and the cheapest that keeps the target
(clairvoyant.py). When every job is in time the order costs a clairvoyant nothing (all have the same target, so the oldest is the most
urgent). Where some are late it is a bound for those only who start jobs in the order of the queue: a plan that lets overdue jobs wait for
younger ones might be cheaper, and ours and the clairvoyant's schedules do that.
"""

from dataclasses import dataclass
from itertools import accumulate
from math import ceil, inf
from math import floor as whole

import numpy as np
from numpy.typing import NDArray

from dispatcher.burst.view import Rules
from tools.simulator.scene import Trace

SLOT_S = 20.0
PRICES = 8  # that are tried for a late job
DEAREST = 1.0  # dollars for a late job: more than bringing up a container for it alone
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Floor:
    dollars: float  # p95 within the target; infinite when the containers that may run are too few
    strict_dollars: float  # every job within the target


@dataclass(frozen=True)
class _States:
    """Cheapest cost and its late jobs, by containers and backlog in units of what the local GPUs do in a slot."""

    cost: Array
    late: Array


@dataclass(frozen=True)
class _Trail:
    """How a slot's states came about, by containers."""

    entered_with: dict[int, NDArray[np.int8]]  # containers of the slot before, by backlog
    grew: dict[int, int]
    lowest: dict[int, int]  # the backlog of which nothing was left

    def before(self, containers: int, backlog: int) -> tuple[int, int]:
        by = self.grew[containers]
        backlog = self.lowest[containers] if by < 0 and backlog == 0 else backlog - by
        return int(self.entered_with[containers][backlog]), backlog


def ideal(trace: Trace, rules: Rules, late_dollars: float) -> list[tuple[float, float]]:
    """From when to when the floor's cheapest plan has containers, if a late job costs so much."""
    fluid = _Fluid(trace, rules)
    fluid.cheapest(late_dollars)
    spans, on = list[tuple[float, float]](), list[float]()
    for slot, containers in enumerate([*fluid.containers(), 0]):
        while len(on) < containers:
            on.append(slot * SLOT_S)
        while len(on) > containers:
            spans.append((on.pop(), slot * SLOT_S))
    return sorted(spans)


def floor(trace: Trace, rules: Rules) -> Floor:
    fluid = _Fluid(trace, rules)
    allowed = len(trace.arrivals) - ceil(0.95 * len(trace.arrivals))
    dollars, late = fluid.cheapest(DEAREST)
    strict = dollars - DEAREST * late if not late else inf
    if late > allowed:
        return Floor(inf, strict)
    best, low, high = max(0.0, dollars - DEAREST * allowed), 1e-4, DEAREST
    for _ in range(PRICES):
        price = (low * high) ** 0.5
        dollars, late = fluid.cheapest(price)
        best = max(best, dollars - price * allowed)
        low, high = (price, high) if late > allowed else (low, price)
    return Floor(best, strict)


class _Fluid:
    def __init__(self, trace: Trace, rules: Rules) -> None:
        box, modal = trace.box, trace.modal
        self._rules, self._modal, self._containers = rules, modal, range(rules.containers_max + 1)
        self._unit_s = box.real_time_factor * SLOT_S
        self._cloud_units = ceil(modal.real_time_factor * SLOT_S / self._unit_s)
        work_s = [one.audio_s + box.job_overhead_audio_s for one in trace.arrivals]
        slots = np.array([int(one.at_s // SLOT_S) for one in trace.arrivals])
        self._due_slots = ceil(rules.target_wait_s / SLOT_S) + 1
        self._slots = int(slots[-1]) + self._due_slots + whole(sum(work_s) / self._unit_s) + 2
        come = np.array([0.0, *accumulate(work_s)]) / self._unit_s
        self._come = come[np.searchsorted(slots, np.arange(self._slots), side="right")]
        self._first = come[np.minimum(np.searchsorted(slots, np.arange(self._slots), side="left") + 1, len(work_s))]
        self._jobs = np.bincount(slots, minlength=self._slots)
        at_most = sum(sorted(work_s)[-box.jobs_in_flight_max * box.gpus :])
        self._held = min(at_most, box.gpus * max(box.audio_in_flight_max_s, max(work_s))) / self._unit_s
        self._held_by_container = max(rules.bundle_audio_max_s, max(work_s)) / self._unit_s
        self._local = [max(box.gpus_at(slot * SLOT_S), box.gpus_at((slot + 1) * SLOT_S)) for slot in range(self._slots)]
        self._new = np.diff(np.floor(self._come), prepend=0.0).astype(int) - self._local
        self._trail, self._end = list[_Trail](), (0, 0)
        self._most = max(accumulate(self._new, lambda backlog, new: max(0, backlog + int(new)), initial=0))

    def cheapest(self, late_dollars: float) -> tuple[float, int]:
        """Of all plans, with a price for every late job: what it costs with them, and how many they are."""
        cost = np.full((len(self._containers), self._most + 1), inf)
        cost[0, 0] = 0.0
        states = _States(cost, np.zeros_like(cost))
        self._trail.clear()
        for slot in range(self._slots):
            states = self._after(slot, states, late_dollars)
        last = states.cost.min(axis=1) + self._dollars(self._rules.scale_down_s) * np.array(self._containers)
        containers = int(last.argmin())
        self._end = containers, int(states.cost[containers].argmin())
        return float(last[containers]), int(states.late[self._end])

    def containers(self) -> list[int]:
        """Slot by slot, of the plan that was found last."""
        (containers, backlog), found = self._end, list[int]()
        for trail in reversed(self._trail):
            found.append(containers)
            containers, backlog = trail.before(containers, backlog)
        return found[::-1]

    def _after(self, slot: int, states: _States, late_dollars: float) -> _States:
        after = _States(np.full_like(states.cost, inf), np.zeros_like(states.late))
        trail = _Trail({}, {}, {})
        self._trail.append(trail)
        is_away = any(start_s <= slot * SLOT_S and (slot + 1) * SLOT_S <= end_s for start_s, end_s in self._modal.outages)
        for containers in self._containers[:1] if is_away else self._containers:
            cost, late, trail.entered_with[containers] = self._entered(states, containers)
            trail.grew[containers] = by = int(self._new[slot]) - containers * self._cloud_units
            trail.lowest[containers] = _shift(after, containers, (cost, late), by)
            self._count_late(after, slot, containers, late_dollars)
        return after

    def _entered(self, states: _States, containers: int) -> tuple[Array, Array, NDArray[np.int8]]:
        """With so many containers on, from whichever number before is cheapest, backlog by backlog."""
        up, down = self._dollars(self._modal.cold_start_median_s), self._dollars(self._rules.scale_down_s)
        change = np.array([max(0, containers - before) * up + max(0, before - containers) * down for before in self._containers])
        options = states.cost + change[:, None]
        before, backlog = options.argmin(axis=0), np.arange(self._most + 1)
        cost = options[before, backlog] + containers * self._dollars(SLOT_S)
        return cost, states.late[before, backlog], before.astype(np.int8)

    def _count_late(self, states: _States, slot: int, containers: int, late_dollars: float) -> None:
        """Jobs that were due in this slot although the first of them has not been reached."""
        due = slot - self._due_slots
        if due >= 0 and self._jobs[due]:
            limit = self._come[slot] - self._first[due] + self._held + containers * self._held_by_container
            reached = max(0, min(self._most + 1, whole(limit) + 1))
            states.cost[containers, reached:] += late_dollars * self._jobs[due]
            states.late[containers, reached:] += self._jobs[due]

    def _dollars(self, container_s: float) -> float:
        return container_s * self._rules.container_dollars_per_s


def _shift(states: _States, containers: int, entered: tuple[Array, Array], by: int) -> int:
    """The backlog grows by what came less what was worked off, and never below nothing; which one nothing is left of, is the answer."""
    into, of = states.cost[containers], entered[0]
    late_into, late_of = states.late[containers], entered[1]
    if by >= 0:
        into[by:], late_into[by:] = of[: len(of) - by], late_of[: len(of) - by]
        return 0
    rest = max(0, len(of) + by)
    into[:rest], late_into[:rest] = of[len(of) - rest :], late_of[len(of) - rest :]
    lowest = int(of[: 1 - by].argmin())
    into[0], late_into[0] = of[lowest], late_of[lowest]
    return lowest
