"""The queue's benchmark in its short form: that it measures, not what."""

import re
import subprocess
import sys

from tests.conftest import ROOT

SHORT = ("--depth", "100", "--pollers", "5", "--poll-s", "1", "--streams", "5", "--rate", "2", "--seconds", "3", "--jobs", "5")


def test_the_bench_of_the_queue_measures_ours_beside_a_plain_one() -> None:
    command = [sys.executable, "-m", "tools.queue_bench", *SHORT, "--seed", "7", "--kill-patience-s", "20"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("seed 7;")
    cells = {
        row[1].strip(): [cell.strip() for cell in row[2:5]]
        for row in (line.split("│") for line in done.stdout.splitlines())
        if len(row) == 6
    }
    assert float(cells["jobs through the worker, per second"][2]) > 0
    assert cells["kill -9 of the busy worker: jobs left of 16"][0] == "0"
    assert cells["ends that no event told of"][0] == "0 of 5"
    assert cells["answers that refused"][0] == "0"
    measured = [name for name in cells if name.endswith("p50 / p95 / p99")]
    assert len(measured) == 7
    assert all(re.fullmatch(r"[\d.]+ / [\d.]+ / [\d.]+", cells[name][0]) for name in measured)
