"""Burst policies on arrival traces: python -m tools.simulator [--short]"""

import argparse
from multiprocessing import get_context
from pathlib import Path

from tools.simulator import traces
from tools.simulator.scene import Caps
from tools.simulator.table import Row, markdown, plot, rows

TARGETS_S = (60.0, 300.0, 900.0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.simulator", description=__doc__)
    parser.add_argument("--plot", type=Path, default=Path(".local/burst.svg"), help="where the plot goes")
    parser.add_argument("--day-dollars", type=float, default=Caps.day_dollars, help="the cap of a day")
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    caps = Caps(day_dollars=given.day_dollars)
    cases = [(make(), target_s, caps) for make in traces.ALL for target_s in TARGETS_S]
    with get_context("spawn").Pool(given.processes) as pool:
        found: list[Row] = [row for case in pool.starmap(rows, cases, chunksize=1) for row in case]
    print(markdown(found, caps), end="")
    plot(found, given.plot)
    print(f"simulate: {len(found)} runs, plot in {given.plot}")


if __name__ == "__main__":
    main()
