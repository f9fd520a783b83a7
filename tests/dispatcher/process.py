"""The real dispatcher, by its documented command."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import ROOT


@contextmanager
def running_dispatcher(redis_url: str, folder: Path, ffmpeg: str, **variables: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Its log grows beside `folder`."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SPILLWAY_")},
        "SPILLWAY_REDIS_URL": redis_url, "SPILLWAY_FILE_STORE_DIR": str(folder), "SPILLWAY_FFMPEG": ffmpeg, "SPILLWAY_LEASE_S": "2",
        "SPILLWAY_HEARTBEAT_S": "0.5", "SPILLWAY_SWEEP_PERIOD_S": "0.1", "SPILLWAY_FETCH_ALLOW": "127.0.0.1/32", **variables,
    }  # fmt: skip
    log = folder.with_suffix(".log")
    with (
        log.open("ab") as output,
        subprocess.Popen([sys.executable, "-m", "dispatcher"], cwd=ROOT, env=environment, stdout=output, stderr=output) as process,
    ):
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=20)
