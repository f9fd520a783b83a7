"""`python -m worker.health`: status 0 if the worker processes of this container do what they should, else 1 and the reason."""

import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from os import kill

from core.errors import SettingsError, StoreUnavailable
from core.job_store import JobStore
from core.redis_steps import connect
from core.settings import Settings
from core.worker_reports import WorkerReport
from worker.crew import Roll, read_roll

TIMEOUT_S = 2.0


def main() -> int:
    try:
        faults = look(Settings.from_environment(), read_roll())
    except SettingsError as error:
        faults = [str(error)]
    sys.stdout.write("\n".join(faults or ["healthy"]) + "\n")
    return 1 if faults else 0


def look(settings: Settings, roll: Roll | None) -> list[str]:
    """What is wrong. A Redis that is away is not: the worker waits for it, and whoever restarts it for that loses its warm models."""
    if roll is None or not _is_alive(roll.launcher):
        return ["no worker runs here: `python -m worker` starts it"]
    try:
        with connect(settings.redis_url, timeout_s=TIMEOUT_S, retries=0) as redis:
            reports = JobStore(redis).workers()
    except StoreUnavailable as error:
        sys.stdout.write(f"redis is away, so that only the process can be seen: {error}\n")
        return []
    return faults_of(roll.processes, reports, socket.gethostname())


def faults_of(processes: Sequence[int], reports: Sequence[WorkerReport], host: str) -> list[str]:
    """A process is silent while it starts, and when its heartbeat stands still: reports are forgotten after three heartbeats."""
    mine = {report.pid: report for report in reports if report.host == host}
    silent = [f"process {pid} is silent: see the worker's log" for pid in processes if pid not in mine]
    unfit = [f"{mine[pid].slot}: {mine[pid].reason}" for pid in processes if pid in mine and mine[pid].state.is_broken]
    return [*silent, *unfit]


def _is_alive(pid: int) -> bool:
    with suppress(ProcessLookupError, PermissionError):  # the latter: its number went to another user's
        kill(pid, 0)
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())
