"""The schedules that were found, kept beside this file: `make simulate` follows them anew, `--search` looks for cheaper ones."""

import json
from collections.abc import Sequence
from pathlib import Path

from tools.simulator.scene import Trace
from tools.simulator.schedule import Run, Schedule

FILE = Path(__file__).with_name("schedules.json")


def kept(trace: Trace, target_wait_s: float, file: Path = FILE) -> tuple[Schedule, ...]:
    """None or one."""
    runs = _read(file).get(_name(trace, target_wait_s))
    return () if runs is None else (tuple(Run(*run) for run in runs),)


def keep(found: Sequence[tuple[Trace, float, Schedule]], file: Path = FILE) -> None:
    all_runs = _read(file)
    for trace, target_wait_s, schedule in found:
        all_runs[_name(trace, target_wait_s)] = [[run.start_s, run.audio_s, run.longest_s, run.spared_s] for run in schedule]
    lines = (f"{json.dumps(name)}: {json.dumps(runs)}" for name, runs in sorted(all_runs.items()))
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _name(trace: Trace, target_wait_s: float) -> str:
    return f"{trace.name}, seed {trace.seed}, {target_wait_s:.0f} s"


def _read(file: Path) -> dict[str, list[list[float]]]:
    return json.loads(file.read_text()) if file.exists() else {}
