"""Runs every policy on every trace, and lays the results out as a table and a plot."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from statistics import median

from dispatcher.burst.policy import decide
from tools.simulator.clairvoyant import judged
from tools.simulator.optimum import Floor, floor
from tools.simulator.rivals import at_submit, by_queue_length
from tools.simulator.scene import Caps, Outcome, Trace, rules
from tools.simulator.schedules import kept
from tools.simulator.world import Policy, World

POLICIES: dict[str, Policy | None] = {"local only": None, "at submit": at_submit, "queue length": by_queue_length, "ours": decide}
NOTHING_DOLLARS = 0.005
GOAL = 1.2


@dataclass(frozen=True)
class Row:
    trace: str
    seed: int
    target_wait_s: float
    policy: str
    median_wait_s: float
    p95_wait_s: float
    in_time: float  # share of jobs
    utilisation: float  # of the local GPUs, until the last job was done
    dollars: float
    floor: Floor
    found_dollars: float = inf  # by the cheapest that is known to keep the target: a schedule, or one of the policies

    @property
    def keeps_target(self) -> bool:
        return self.p95_wait_s <= self.target_wait_s

    @property
    def to_floor(self) -> float | None:
        return self.dollars / self.floor.dollars if self.keeps_target and self.floor.dollars >= NOTHING_DOLLARS else None

    @property
    def to_found(self) -> float | None:
        return self.dollars / self.found_dollars if self.keeps_target and self.found_dollars >= NOTHING_DOLLARS else None


def rows(trace: Trace, target_wait_s: float, caps: Caps) -> list[Row]:
    its_rules = rules(target_wait_s)
    least = floor(trace, its_rules)
    found = [_row(trace, target_wait_s, name, World(trace, policy, its_rules, caps).run(), least) for name, policy in POLICIES.items()]
    of_schedules = [judged(trace, schedule, its_rules).dollars for schedule in kept(trace, target_wait_s)]
    best = min([*of_schedules, *(row.dollars for row in found if row.keeps_target)], default=inf)
    return [replace(row, found_dollars=best) for row in found]


def _row(trace: Trace, target_wait_s: float, name: str, found: Outcome, least: Floor) -> Row:
    waits = sorted(found.waits_s)
    in_time = sum(wait_s <= target_wait_s for wait_s in waits) / len(waits)
    utilisation = found.busy_s / (found.span_s * trace.box.gpus)
    median_s, p95_s = _nearest_rank(waits, 0.5), _nearest_rank(waits, 0.95)
    return Row(trace.name, trace.seed, target_wait_s, name, median_s, p95_s, in_time, utilisation, found.dollars, least)


def _nearest_rank(ordered: Sequence[float], share: float) -> float:
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


HEADING = (
    "trace",
    "target",
    "policy",
    "median wait",
    "p95 wait",
    "local GPU",
    "dollars",
    "in time",
    "found",
    "ratio",
    "floor",
    "ratio",
    "",
)


def markdown(found: Iterable[Row], caps: Caps) -> str:
    """A line for every trace, target and policy: medians of its seeds, and of the ratios the worst too."""
    cases: dict[tuple[str, float, str], list[Row]] = {}
    for row in found:
        cases.setdefault((row.trace, row.target_wait_s, row.policy), []).append(row)
    lines = [HEADING, ("---",) * len(HEADING), *(_cells(case, caps) for case in cases.values())]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _cells(case: Sequence[Row], caps: Caps) -> tuple[str, ...]:
    first = case[0]
    return (
        first.trace,
        f"{first.target_wait_s / 60:.0f} min",
        first.policy,
        f"{median(row.median_wait_s for row in case) / 60:.1f} min",
        f"{median(row.p95_wait_s for row in case) / 60:.1f} min",
        f"{median(row.utilisation for row in case):.0%}",
        f"{median(row.dollars for row in case):.2f}",
        f"{sum(row.keeps_target for row in case)} of {len(case)}",
        _dollars([row.found_dollars for row in case]),
        _ratios([row.to_found for row in case]),
        _dollars([row.floor.dollars for row in case]),
        _ratios([row.to_floor for row in case]),
        verdict(case, caps),
    )


def _dollars(of_seeds: Sequence[float]) -> str:
    middle = median(of_seeds)
    return "none" if middle == inf else f"{middle:.2f}"


def _ratios(of_seeds: Sequence[float | None]) -> str:
    """Of the seeds in which the target is kept."""
    known = [ratio for ratio in of_seeds if ratio is not None]
    return f"{median(known):.2f}, {max(known):.2f}" if known else ""


def verdict(case: Sequence[Row], caps: Caps) -> str:
    if all(row.floor.dollars == inf for row in case):
        return "no money is enough: not with so few containers"
    if all(row.floor.dollars > caps.day_dollars for row in case):
        return f"needs more than the ${caps.day_dollars:g} of a day"
    if not all(row.keeps_target for row in case):
        is_known = any(row.found_dollars <= caps.day_dollars for row in case if not row.keeps_target)
        return "misses the target" if is_known else "misses the target; nothing found that keeps it under the cap"
    dearest = max((row.to_found or 1.0 for row in case), default=1.0)
    return "" if dearest <= GOAL else f"in time, dearer than {GOAL:g} times the cheapest found"


def plot(found: Sequence[Row], path: Path) -> None:
    import matplotlib  # slow to import, and needed once

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row.trace for row in found))
    figure, grid = pyplot.subplots(1, len(names), figsize=(3.2 * len(names), 3.4), sharey=True, constrained_layout=True, squeeze=False)
    axes = grid[0]
    for axis, name in zip(axes, names, strict=True):
        for policy, marker in zip(POLICIES, "ovsD", strict=True):
            of_policy = [row for row in found if row.trace == name and row.policy == policy]
            points = [row.p95_wait_s / row.target_wait_s for row in of_policy]
            axis.plot([row.dollars for row in of_policy], points, marker, label=policy, alpha=0.8)
        axis.axhline(1.0, color="grey", linewidth=0.8)
        axis.set(title=name, xlabel="dollars", yscale="log")
    axes[0].set_ylabel("p95 wait / target wait")
    axes[0].legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
