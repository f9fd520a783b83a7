"""Burst policies on arrival traces: python -m tools.simulator [--quick] [--trace steady] [--search 300]"""

import argparse
from multiprocessing import get_context
from pathlib import Path

from tools.simulator import traces
from tools.simulator.clairvoyant import search
from tools.simulator.scene import Caps, Trace, rules
from tools.simulator.schedules import keep, kept
from tools.simulator.table import Row, markdown, plot, rows

TARGETS_S = (60.0, 300.0, 900.0)


def main() -> None:
    given = _given()
    seeds = (given.seeds or list(traces.HELD_OUT))[: 1 if given.quick else None]
    wanted = [make for make in traces.ALL if given.trace in (None, make.__name__)]
    # No money is enough for the podcasts, whatever the seed, and they take as long as all others together: one seed.
    made = [make(seed) for make in wanted for seed in (seeds[:1] if make is traces.podcasts else seeds)]
    cases = [(trace, target_s) for trace in made for target_s in TARGETS_S]
    if given.search:
        _search(cases, given.search, given.processes)
    else:
        _report(cases, Caps(day_dollars=given.day_dollars), given.processes, given.plot)


def _given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.simulator", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the first seed only")
    parser.add_argument("--trace", choices=[make.__name__ for make in traces.ALL], help="this one only")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of those that are held out")
    parser.add_argument("--search", type=int, metavar="TRIES", help="look for cheaper schedules than those that are kept, and keep them")
    parser.add_argument("--plot", type=Path, default=Path(".local/burst.svg"), help="where the plot goes")
    parser.add_argument("--day-dollars", type=float, default=Caps.day_dollars, help="the cap of a day")
    parser.add_argument("--processes", type=int, default=2)
    return parser.parse_args()


def _search(cases: list[tuple[Trace, float]], tries: int, processes: int) -> None:
    arguments = [(trace, rules(target_s), tries, kept(trace, target_s)) for trace, target_s in cases]
    with get_context("spawn").Pool(processes) as pool:
        found = pool.starmap(search, arguments, chunksize=1)
    keep([(trace, target_s, one.schedule) for (trace, target_s), one in zip(cases, found, strict=True)])
    print(f"simulate: {len(found)} schedules looked for, {sum(one.late == 0 for one in found)} of them keep their target")


def _report(cases: list[tuple[Trace, float]], caps: Caps, processes: int, plotted: Path) -> None:
    with get_context("spawn").Pool(processes) as pool:
        found: list[Row] = [row for case in pool.starmap(rows, [(*case, caps) for case in cases], chunksize=1) for row in case]
    print(markdown(found, caps), end="")
    plot(found, plotted)
    print(f"simulate: {len(found)} runs, plot in {plotted}")


if __name__ == "__main__":
    main()
