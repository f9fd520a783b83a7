"""A stack kept running behind our back: started, waited for, stopped, by the lock that it holds in its folder."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tools.state_lock import Holder, holder_of

STOP_PATIENCE_S = 60.0
POLL_S = 0.1


def start(command: list[str], folder: Path, log: Path) -> Holder | None:
    """Its holder once it takes jobs, its own lines being printed meanwhile; None when it ended instead. An interrupt stops it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output, log.open("rb") as lines:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
        try:
            holder = _wait_until_ready(process, folder, lines.read)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        process.returncode = 0  # it outlives us: without this, subprocess complains that nobody waits for it
        return holder


def stop(folder: Path) -> bool:
    """Whether anything ran."""
    holder = holder_of(folder)
    if not holder:
        return False
    process = os.pidfd_open(holder.pid)  # tells of the end of a process that is not our child, and never means another one
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
        if not select.select([process], [], [], STOP_PATIENCE_S)[0]:
            signal.pidfd_send_signal(process, signal.SIGKILL)  # the kernel ends its children with it
            select.select([process], [], [])
    finally:
        os.close(process)
    return True


def settled_holder(folder: Path, *, patience_s: float = 300.0) -> Holder | None:
    """Who holds the folder, waiting while it is still starting."""
    deadline = time.monotonic() + patience_s
    while (holder := holder_of(folder)) and not holder.url and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return holder


def _wait_until_ready(process: "subprocess.Popen[bytes]", folder: Path, read: Callable[[], bytes]) -> Holder | None:
    while process.poll() is None:
        holder = holder_of(folder)
        sys.stdout.write(read().decode(errors="replace"))
        sys.stdout.flush()
        if holder and holder.pid == process.pid and holder.url:
            return holder
        time.sleep(POLL_S)
    sys.stdout.write(read().decode(errors="replace"))
    return None
