"""`make bench-queue`: the queue at its depth under many clients, beside a plain Celery queue of the same work in the same run.

Every recording is one second of silence, so that nothing is measured but the queue, the probe and the decode. Machines are noisy,
and the clients share the service's cores: read the ratios.
"""

import argparse
import os
import statistics
import tempfile
import wave
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tools.queue_bench import plain
from tools.queue_bench.measured import Measured
from tools.queue_bench.ours import Load, Ours, stack
from tools.queue_bench.processes import frozen


def main() -> None:
    given = _arguments()
    load = Load(given.depth, given.pollers, given.poll_s, given.streams, given.rate, given.seconds)
    print(f"seed {given.seed}; {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} before", flush=True)
    with tempfile.TemporaryDirectory(prefix="spillway-bench-") as folder:
        recording = _silence(Path(folder, "second.wav"))
        with stack(Path(folder), load) as running:
            bench = Ours(running, Path(folder), recording, given.seed)
            ours = bench.measure(load, given.jobs, given.kill_patience_s)
            redis_url = running.redis_url.removesuffix("0") + "1"  # the same server, a database of its own
            with frozen(bench.processes()):  # ten thousand jobs still wait there
                theirs = plain.measure(redis_url, Path(folder), recording, jobs=given.jobs, kill_patience_s=given.kill_patience_s)
    Console(width=140).print(_table(load, ours, theirs))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.queue_bench", description=__doc__)
    parser.add_argument("--depth", type=int, default=10_000, help="jobs that wait while the rest is measured")
    parser.add_argument("--pollers", type=int, default=200, help="clients that poll")
    parser.add_argument("--poll-s", type=float, default=10.0, help="seconds between two polls of one client, on average")
    parser.add_argument("--streams", type=int, default=200, help="event streams, each on a job that starts and ends meanwhile")
    parser.add_argument("--rate", type=float, default=2.0, help="submits per second under the load, at random moments")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the load")
    parser.add_argument("--jobs", type=int, default=100, help="jobs of the comparison with a plain queue")
    parser.add_argument("--kill-patience-s", type=float, default=60.0, help="how long a killed worker's jobs are waited for")
    parser.add_argument("--seed", type=int, default=1, help="of the moments of submits and polls")
    return parser.parse_args()


def _silence(path: Path) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(32_000))
    return path


def _table(load: Load, ours: Measured, theirs: Measured) -> Table:
    table = Table(
        title=f"{load.depth} queued jobs; load: {load.pollers} clients polling every {load.poll_s:g} s, {load.streams} event streams,"
        f" {load.rate:g} submits a second for {load.seconds:g} s",
        title_justify="left",
    )
    for column in ("", "Spillway", "plain Celery", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for name, rate in ours.per_second.items():
        other = theirs.per_second.get(name)
        table.add_row(f"{name}, per second", f"{rate:.1f}", f"{other:.1f}" if other else "", f"{rate / other:.2f}" if other else "")
    for name, times_s in ours.times_s.items():
        others_s = theirs.times_s.get(name, ())
        ratio = statistics.median(times_s) / statistics.median(others_s) if times_s and others_s else None
        table.add_row(f"{name}, ms p50 / p95 / p99", _spread(times_s), _spread(others_s), f"{ratio:.2f}" if ratio else "")
    for name, count in ours.counts.items():
        table.add_row(name, count, theirs.counts.get(name, ""), "")
    return table


def _spread(times_s: Sequence[float]) -> str:
    ordered = sorted(times_s)
    return " / ".join(f"{1000 * ordered[int(share * (len(ordered) - 1))]:.1f}" for share in (0.5, 0.95, 0.99)) if ordered else ""


if __name__ == "__main__":
    main()
