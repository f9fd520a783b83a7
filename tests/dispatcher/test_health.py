"""The dispatcher's health is that of its loop."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from core.errors import StoreUnavailable
from dispatcher.health import look
from dispatcher.loops import run
from tests.conftest import ROOT, RedisServer, wait_for


@pytest.mark.parametrize(("age", "is_well"), [(0.0, True), (29.0, True), (31.0, False), (None, False)])
def test_a_loop_that_stands_still_is_a_fault(age: float | None, is_well: bool) -> None:
    assert (look(age, 30.0) == "") == is_well


@pytest.mark.parametrize("leads", [True, False])
def test_leaders_and_standbys_go_round_also_without_redis(leads: bool) -> None:
    stop, rounds = threading.Event(), []

    def step() -> None:
        raise StoreUnavailable("away")

    def went_round() -> None:
        rounds.append(1)
        if len(rounds) == 2:
            stop.set()

    run((step,), leads=lambda: leads, went_round=went_round, period_s=0, stop=stop)
    assert len(rounds) == 2


def test_a_running_dispatcher_is_healthy_also_when_redis_goes(redis_server: RedisServer, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "SPILLWAY_REDIS_URL": redis_server.url}
    environment["SPILLWAY_FILE_STORE_DIR"] = str(tmp_path / "files")  # it looks for orphans, and not in this machine's own

    def is_healthy() -> bool:
        command = [sys.executable, "-m", "dispatcher.health"]
        return subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=False).returncode == 0

    with subprocess.Popen([sys.executable, "-m", "dispatcher"], cwd=ROOT, env=environment) as dispatcher:
        try:
            wait_for(is_healthy, "the first round")
            redis_server.stop()
            (mark,) = tmp_path.glob("spillway-dispatcher-*")
            mark.unlink()
            wait_for(is_healthy, "a round without redis", timeout_s=30)
        finally:
            dispatcher.terminate()
