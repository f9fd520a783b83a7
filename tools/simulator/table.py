"""Runs every policy on every trace, and lays the results out as a table and a plot."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dispatcher.burst.policy import decide
from tools.simulator.optimum import Floor, floor
from tools.simulator.rivals import at_submit, by_queue_length
from tools.simulator.scene import Caps, Outcome, Trace, rules
from tools.simulator.world import Policy, World

POLICIES: dict[str, Policy | None] = {"local only": None, "at submit": at_submit, "queue length": by_queue_length, "ours": decide}
NOTHING_DOLLARS = 0.005


@dataclass(frozen=True)
class Row:
    trace: str
    target_wait_s: float
    policy: str
    median_wait_s: float
    p95_wait_s: float
    in_time: float  # share of jobs
    utilisation: float  # of the local GPUs, until the last job was done
    dollars: float
    floor: Floor

    @property
    def ratio(self) -> float | None:
        """To the floor; None where the target is missed, or nothing need be spent."""
        if self.p95_wait_s > self.target_wait_s or self.floor.dollars < NOTHING_DOLLARS:
            return None
        return self.dollars / self.floor.dollars


def rows(trace: Trace, target_wait_s: float, caps: Caps) -> list[Row]:
    least = floor(trace, rules(target_wait_s))
    return [
        _row(trace, target_wait_s, name, World(trace, policy, rules(target_wait_s), caps).run(), least) for name, policy in POLICIES.items()
    ]


def _row(trace: Trace, target_wait_s: float, name: str, found: Outcome, least: Floor) -> Row:
    waits = sorted(found.waits_s)
    in_time = sum(wait_s <= target_wait_s for wait_s in waits) / len(waits)
    utilisation = found.busy_s / (found.span_s * trace.box.gpus)
    return Row(
        trace.name, target_wait_s, name, _nearest_rank(waits, 0.5), _nearest_rank(waits, 0.95), in_time, utilisation, found.dollars, least
    )


def _nearest_rank(ordered: Sequence[float], share: float) -> float:
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def markdown(found: Iterable[Row], caps: Caps) -> str:
    heading = ["trace", "target", "policy", "median wait", "p95 wait", "in time", "local GPU", "dollars", "floor", "ratio", ""]
    lines = [heading, ["---"] * len(heading), *(_cells(row, caps) for row in found)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _cells(row: Row, caps: Caps) -> list[str]:
    floor_dollars = "none is enough" if row.floor.dollars == float("inf") else f"{row.floor.dollars:.2f}"
    return [
        row.trace,
        f"{row.target_wait_s / 60:.0f} min",
        row.policy,
        f"{row.median_wait_s / 60:.1f} min",
        f"{row.p95_wait_s / 60:.1f} min",
        f"{row.in_time:.0%}",
        f"{row.utilisation:.0%}",
        f"{row.dollars:.2f}",
        floor_dollars,
        "" if row.ratio is None else f"{row.ratio:.2f}",
        verdict(row, caps),
    ]


def verdict(row: Row, caps: Caps) -> str:
    if row.floor.dollars == float("inf"):
        return "no money is enough: not with so few containers"
    if row.floor.dollars > caps.day_dollars:
        return f"needs more than the ${caps.day_dollars:g} of a day"
    if row.p95_wait_s > row.target_wait_s:
        return "misses the target"
    return "" if row.ratio is None or row.ratio <= 1.2 else "in time, dearer than 1.2 times the floor"


def plot(found: Sequence[Row], path: Path) -> None:
    import matplotlib  # slow to import, and needed once

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row.trace for row in found))
    figure, axes = pyplot.subplots(1, len(names), figsize=(3.2 * len(names), 3.4), sharey=True, constrained_layout=True)
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
