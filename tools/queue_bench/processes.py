"""What is done to processes, and heard of them: frozen, killed, counted."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

SETTLE_S = 5.0  # until wake-ups that found nothing left to do have been heard as well
IDLE_S = 5.0


def family(pid: int) -> list[int]:
    """It and its children."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ends meanwhile
            found += map(int, (task / "children").read_text().split())
    return found


@contextmanager
def frozen(pids: Sequence[int]) -> Iterator[None]:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def kill(leader: int) -> None:
    """With all that it started."""
    os.killpg(leader, signal.SIGKILL)


def peak_memory_mb(pids: Sequence[int]) -> float:
    """Of the one that took most."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return max(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def fsyncs_per_job(processes: Mapping[str, Sequence[int]], run: Callable[[], object], *, jobs: int = 5) -> str:
    """In all and by process, without what the same processes do meanwhile anyway."""
    if not shutil.which("strace"):
        return "(needs strace)"
    time.sleep(SETTLE_S)
    idle, idle_s = _counted(processes, lambda: time.sleep(IDLE_S))
    busy, busy_s = _counted(processes, lambda: [run() for _ in range(jobs)])
    each = {name: (busy[name] - idle[name] * busy_s / idle_s) / jobs for name in processes}
    return f"{sum(each.values()):.1f} ({', '.join(f'{name} {count:.1f}' for name, count in each.items())})"


def _counted(processes: Mapping[str, Sequence[int]], act: Callable[[], object]) -> tuple[dict[str, int], float]:
    """Fsyncs by name, and the seconds that they were counted for."""
    with tempfile.TemporaryDirectory() as folder:
        tracers = [_tracer(pids, Path(folder, name)) for name, pids in processes.items()]
        begun = time.monotonic()
        act()
        seconds = time.monotonic() - begun
        for tracer in tracers:
            with tracer:
                tracer.send_signal(signal.SIGINT)
        return {name: Path(folder, name).read_text().count("sync(") for name in processes}, seconds


def _tracer(pids: Sequence[int], into: Path) -> "subprocess.Popen[bytes]":
    """It traces them all when this returns. Raises `RuntimeError` when it may not."""
    targets = [part for pid in pids for part in ("-p", str(pid))]
    command = ["strace", "-f", "-e", "trace=fsync,fdatasync", "-o", str(into), *targets]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert tracer.stderr is not None
    for _ in pids:
        if b" attached" not in (line := tracer.stderr.readline()):
            raise RuntimeError(f"strace cannot count fsyncs: {line.decode().strip()}")
    return tracer
