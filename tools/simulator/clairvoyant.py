"""The cheapest schedule that was found for one who knows the whole day: an upper bound on the optimum, where the floor is a lower one.

A schedule is followed in the same world as every policy, with the same draws, and charged as they are: what it costs, a clairvoyant
could pay. It begins as the floor's plan, which the world keeps only about, and is changed step by step: a run sooner or later, longer or
shorter, one less, two in one, a new one, other jobs for it. Changes for the worse are taken at times, ever more seldom (simulated
annealing). Nothing says that there is no cheaper one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import exp, inf
from random import Random

from dispatcher.burst.view import Rules
from tools.simulator.optimum import ideal
from tools.simulator.scene import Outcome, Trace
from tools.simulator.schedule import NO_LIMIT_S, Run, Schedule, followed

LATE_DOLLARS = 0.05  # for each job beyond those that may be late, while it is searched: more than a start
STARTS_DOLLARS = (1.0, 0.01)  # for a late job, in the two plans of the floor that are begun with
WARMTH_DOLLARS = 0.02  # at which a change for the worse is still taken at first
LEAST_S = 120.0  # audio of a run


@dataclass(frozen=True)
class Found:
    schedule: Schedule
    outcome: Outcome
    late: int  # more than may be
    target_wait_s: float

    @property
    def dollars(self) -> float:
        return inf if self.late else self.outcome.dollars

    @property
    def score(self) -> float:
        return self.outcome.dollars + LATE_DOLLARS * self.late


def judged(trace: Trace, schedule: Schedule, rules: Rules) -> Found:
    outcome = followed(trace, schedule, rules)
    late = sum(wait_s > rules.target_wait_s for wait_s in outcome.waits_s)
    return Found(schedule, outcome, max(0, late - may_be_late(len(outcome.waits_s))), rules.target_wait_s)


def may_be_late(jobs: int) -> int:
    return jobs * 5 // 100


def search(trace: Trace, rules: Rules, tries: int, known: Sequence[Schedule] = ()) -> Found:
    """`tries` schedules from the best of those that are known and the floor's own plans."""
    draw = Random(trace.seed)
    ideals = [_of_ideal(trace, rules, dollars) for dollars in STARTS_DOLLARS]
    best = here = min((judged(trace, one, rules) for one in (*known, *ideals, ())), key=lambda found: found.score)
    for step in range(tries):
        there = judged(trace, _changed(here.schedule, draw, trace, rules), rules)
        warmth = WARMTH_DOLLARS * (1 - step / tries)
        if there.score <= here.score or draw.random() < exp((here.score - there.score) / warmth):
            here = there
        best = min(best, here, key=lambda found: found.score)
    return best


def _of_ideal(trace: Trace, rules: Rules, late_dollars: float) -> Schedule:
    modal = trace.modal
    return tuple(
        Run(max(0.0, start_s - modal.cold_start_median_s), (end_s - start_s) * modal.real_time_factor)
        for start_s, end_s in ideal(trace, rules, late_dollars)
    )


def _changed(schedule: Schedule, draw: Random, trace: Trace, rules: Rules) -> Schedule:
    change = draw.choices(list(CHANGES), list(CHANGES.values()))[0] if schedule else _with_one_more
    return tuple(sorted(change(list(schedule), draw, trace, rules), key=lambda run: run.start_s))


def _with_one_more(runs: list[Run], draw: Random, trace: Trace, _: Rules) -> list[Run]:
    return [*runs, Run(draw.uniform(0, trace.arrivals[-1].at_s), draw.choice([600.0, 1800.0, 3600.0, 7200.0]))]


def _with_one_less(runs: list[Run], draw: Random, *_: object) -> list[Run]:
    runs.pop(draw.randrange(len(runs)))
    return runs


def _with_two_in_one(runs: list[Run], draw: Random, *_: object) -> list[Run]:
    place = draw.randrange(len(runs))
    return [
        *runs[:place],
        *(replace(into, audio_s=into.audio_s + runs[place].audio_s) for into in runs[place + 1 : place + 2]),
        *runs[place + 2 :],
    ]


def _moved(runs: list[Run], draw: Random, *_: object) -> list[Run]:
    return _with(runs, draw, lambda run: replace(run, start_s=max(0.0, run.start_s + draw.gauss(0, draw.choice([5, 30, 120, 600])))))


def _resized(runs: list[Run], draw: Random, *_: object) -> list[Run]:
    return _with(runs, draw, lambda run: replace(run, audio_s=max(LEAST_S, run.audio_s + draw.gauss(0, draw.choice([200, 900, 3000])))))


def _with_work_moved(runs: list[Run], draw: Random, *_: object) -> list[Run]:
    """From one run to another."""
    audio_s = draw.uniform(0, 2000)
    less = _with(runs, draw, lambda run: replace(run, audio_s=max(LEAST_S, run.audio_s - audio_s)))
    return _with(less, draw, lambda run: replace(run, audio_s=run.audio_s + audio_s))


def _all_moved(runs: list[Run], draw: Random, *_: object) -> list[Run]:
    by_s = draw.gauss(0, 60)
    return [replace(run, start_s=max(0.0, run.start_s + by_s)) for run in runs]


def _all_resized(runs: list[Run], draw: Random, *_: object) -> list[Run]:
    by = draw.gauss(1, 0.05)
    return [replace(run, audio_s=max(LEAST_S, run.audio_s * by)) for run in runs]


def _with_other_lengths(runs: list[Run], draw: Random, *_: object) -> list[Run]:
    return _with(runs, draw, lambda run: replace(run, longest_s=draw.choice([600.0, 1200.0, 2000.0, 3000.0, NO_LIMIT_S, NO_LIMIT_S])))


def _with_other_waits(runs: list[Run], draw: Random, _: Trace, rules: Rules) -> list[Run]:
    return _with(runs, draw, lambda run: replace(run, spared_s=rules.target_wait_s * draw.choice([0, 0, 0.3, 0.6, 0.8])))


def _with(runs: list[Run], draw: Random, change: Callable[[Run], Run]) -> list[Run]:
    place = draw.randrange(len(runs))
    return [*runs[:place], change(runs[place]), *runs[place + 1 :]]


CHANGES: dict[Callable[[list[Run], Random, Trace, Rules], list[Run]], float] = {
    _with_one_more: 8, _with_one_less: 8, _with_two_in_one: 8, _moved: 24, _resized: 24, _with_work_moved: 8,
    _all_moved: 4, _all_resized: 4, _with_other_lengths: 6, _with_other_waits: 6,
}  # fmt: skip
