"""`make chaos`: real processes broken in every way at once, then the proof that nobody was failed by it.

Two workers, dispatcher, service and a Redis with an append-only file, fsync on every write; clients that ask until they have their
202; faults drawn by a seed, which is printed. Long by default; `ARGS=--short` is what CI runs.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median, quantiles

from client.api import SpillwayClient
from tools.chaos.callbacks import Receiver
from tools.chaos.crowd import Crowd, Recordings
from tools.chaos.faults import WORKERS, Faults, small_volume
from tools.chaos.journal import Line, read_journal, recoveries, taken_back_in
from tools.chaos.orders import draw_orders
from tools.chaos.proof import Findings, delete_all, prove, settle, sweep
from tools.local_stack import LocalStack, Plan
from tools.stack_parts import PROGRAMS, ROOT, ffmpeg
from tools.supervisor import Patience, Program

FOLDER = ROOT / ".local" / "chaos"
SAMPLE = ROOT / "samples" / "dialogue.flac"
LEASE_S, HEARTBEAT_S, MAX_LOSSES = 6.0, 1.5, 4
WEBHOOK_SECRET = "whsec_" + "Y2hhb3M" * 5 + "M"  # of nobody: the receiver is ours and dies with the run
SETTLE_S = 120.0  # beside what a job that hangs takes until it is set aside


@dataclass(frozen=True)
class Size:
    jobs: int
    real: int
    poison: int
    seconds: float  # over which the orders are sent; things break for that long and until the last is acknowledged
    stalled_after_s: float  # more than the longest freeze, and than the real model takes to be loaded


LONG, SHORT = (
    Size(jobs=500, real=8, poison=15, seconds=300, stalled_after_s=30),
    Size(jobs=60, real=0, poison=5, seconds=20, stalled_after_s=12),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.chaos", description="Breaks everything at once and proves that nobody was failed."
    )
    parser.add_argument("--short", action="store_true", help=f"{SHORT.jobs} jobs in place of {LONG.jobs}, without the real model")
    parser.add_argument("--seed", type=int, default=None, help="of an earlier run, to have the same orders and faults again")
    given = parser.parse_args()
    seed = int(time.time()) if given.seed is None else given.seed
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    size = SHORT if given.short else LONG
    say(f"seed {seed}: {size.jobs} jobs over {size.seconds:.0f} s, {size.poison} of them poison, {size.real} with the real model")
    return run(size, seed)


def say(line: str) -> None:
    print(line, flush=True)


def run(size: Size, seed: int) -> int:
    with ExitStack() as exits:
        _clear()
        disk = exits.enter_context(small_volume(FOLDER / "files", say))
        receiver = exits.enter_context(Receiver(seed))
        stack = exits.enter_context(LocalStack(_plan(size), say=lambda _: None))
        client = exits.enter_context(SpillwayClient(stack.url))
        say(f"running at {stack.url}; logs: {FOLDER}/logs")
        orders = draw_orders(Random(seed), size.jobs, real=size.real, poison=size.poison)
        crowd = Crowd(stack.url, orders, _recordings(), callback_url=receiver.url, seconds=size.seconds, size=8)
        faults = Faults(stack, Random(seed + 1), lease_s=LEASE_S, disk=disk)
        with crowd:
            with faults:
                _wait_for(stack, crowd, faults)
            say(f"{len(faults.befallen)} faults ({_told(faults)}); waiting for what is still to end")
            hangs = sum(order.script is not None and order.script.get("then") == "hang" for order in orders)
            settle(client, crowd.seen, orders, receiver, SETTLE_S + hangs * MAX_LOSSES * size.stalled_after_s)
        journal = read_journal(FOLDER / "journal")
        found = prove(client, crowd.seen, orders, receiver, journal, max_losses=MAX_LOSSES)
        delete_all(client)
        swept, found.left_over = sweep(FOLDER / "files", _environment(stack))
    for line in found.all():
        say(f"  {line}")
    say(f"{swept} files of uploads and attempts that were killed were swept once they were old")
    say(recovery(faults, journal, FOLDER / "logs"))
    say(summary(size, faults, found))
    return 1 if found.all() else 0


def _wait_for(stack: LocalStack, crowd: Crowd, faults: Faults) -> None:
    while not (crowd.has_sent_all() and faults.have_all_been()):
        stack.check()
        time.sleep(0.2)


def _plan(size: Size) -> Plan:
    command: list[str | Path] = [sys.executable, "-m", "tools.scripted_worker", "--journal", FOLDER / "journal"]
    command += ["--real"] if size.real else []
    ours = [program for program in PROGRAMS if program.name != "worker"]
    settings = {
        "SPILLWAY_LEASE_S": str(LEASE_S),
        "SPILLWAY_HEARTBEAT_S": str(HEARTBEAT_S),
        "SPILLWAY_SWEEP_PERIOD_S": "0.5",
        "SPILLWAY_MAX_LOSSES": str(MAX_LOSSES),
        "SPILLWAY_STOP_GRACE_S": "1",
        "SPILLWAY_STALLED_AFTER_S": str(size.stalled_after_s),
        "SPILLWAY_ASR_MODEL": "faster-whisper-tiny.en",
        "SPILLWAY_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "SPILLWAY_CALLBACK_ALLOW": "127.0.0.1/32",
        "SPILLWAY_LOG_FORMAT": "json",
    }
    programs = (*ours, *(Program(name, tuple(command)) for name in WORKERS))
    return Plan(FOLDER, settings, port=0, programs=programs, patience=Patience(quick_deaths=10**6, longest_pause_s=0.5))


def _environment(stack: LocalStack) -> dict[str, str]:
    """Of a command by hand beside the stack."""
    ours = {"SPILLWAY_REDIS_URL": stack.redis_url, "SPILLWAY_FILE_STORE_DIR": str(FOLDER / "files"), "SPILLWAY_ACCESS": "open"}
    return {**os.environ, **ours}


def _clear() -> None:
    """A run begins with nothing; its logs and journal stay for whoever wants to know."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in ("redis", "files", "logs", "journal"):
        subprocess.run(["rm", "-rf", str(FOLDER / name)], check=True)


def _recordings() -> Recordings:
    short = FOLDER / "short.flac"
    command = [ffmpeg(), "-v", "error", "-y", "-f", "lavfi", "-i", "sine=frequency=440:duration=1", "-ar", "16000", str(short)]
    subprocess.run(command, check=True)
    return Recordings(short, SAMPLE)


def recovery(faults: Faults, journal: list[Line], logs: Path) -> str:
    """Of jobs whose worker was killed. A suspect waits until it can run alone: being taken back is repair, beginning again is luck too."""
    taken_back, deaths = taken_back_in(logs), [fault for fault in faults.befallen if fault.kind == "kill worker"]
    every = [each for death in deaths for each in recoveries(journal, taken_back, death.pid, death.at)]
    repaired = [each.taken_back_s for each in every if each.taken_back_s is not None]
    resumed = [each.resumed_s for each in every if each.resumed_s is not None]
    return f"recovery of {len(every)} jobs whose worker was killed: taken back {_spread(repaired)}; begun again {_spread(resumed)}"


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "never"
    p95 = quantiles(seconds, n=20, method="inclusive")[-1] if len(seconds) > 1 else seconds[0]
    return f"median {median(seconds):.1f} s, p95 {p95:.1f} s, worst {max(seconds):.1f} s"


def _told(faults: Faults) -> str:
    return ", ".join(f"{count} x {kind}" for kind, count in sorted(faults.counts().items()))


def summary(size: Size, faults: Faults, found: Findings) -> str:
    counts = faults.counts()
    kills = sum(count for kind, count in counts.items() if kind.startswith("kill") and kind != "kill redis")
    wrong = len(found.wrong) + len(found.left_over)
    verdict = f"{len(found.lost)} lost, {len(found.duplicated)} duplicated, {len(found.stuck)} stuck" + (
        f", {wrong} wrong" if wrong else ""
    )
    return f"chaos: {size.jobs} jobs, {kills} kills, {counts['kill redis']} redis restarts: {verdict}"


if __name__ == "__main__":
    sys.exit(main())
