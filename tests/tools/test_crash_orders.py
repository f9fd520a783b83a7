"""Orders to die: taken once, by the process that they name, at the point that they name."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, wait_for
from tools.crash_orders import Blow, CrashOrders, Moment, Strike, point_of

LIFE = """
import sys
from pathlib import Path
from core.crash_points import passed
from tools.crash_orders import CrashOrders
CrashOrders(Path(sys.argv[1])).obey(sys.argv[2])
passed("step", "claim")
passed("placed", f"jobs/{'0' * 32}/transcript-2.json")
"""
CLAIM, RESULT = Moment("worker", "step:claim"), Moment("worker", "placed:result")


def life(orders: CrashOrders, process: str = "worker") -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", LIFE, orders.folder, process], cwd=ROOT)


@pytest.fixture
def orders(tmp_path: Path) -> CrashOrders:
    return CrashOrders(tmp_path / "orders")


def test_a_process_dies_where_it_was_told_once(orders: CrashOrders) -> None:
    orders.order(CLAIM)
    first = life(orders)
    assert first.wait() == -signal.SIGKILL
    assert life(orders).wait() == 0
    assert orders.strikes() == [Strike(CLAIM, Blow.KILL, first.pid)]
    assert orders.passed() == {CLAIM, RESULT}


def test_others_and_those_whose_order_was_withdrawn_live_on(orders: CrashOrders) -> None:
    orders.order(CLAIM)
    assert life(orders, "dispatcher").wait() == 0
    orders.withdraw()
    assert life(orders).wait() == 0
    assert orders.strikes() == []


def test_a_frozen_process_goes_on_when_it_is_told(orders: CrashOrders) -> None:
    orders.order(RESULT, Blow.FREEZE)
    frozen = life(orders)
    wait_for(orders.strikes, "the process to freeze")
    os.waitid(os.P_PID, frozen.pid, os.WSTOPPED)
    frozen.send_signal(signal.SIGCONT)
    assert frozen.wait() == 0


@pytest.mark.parametrize(
    ("key", "point"),
    [
        (f"jobs/{'0' * 32}/input", "placed:input"),
        (f"prefix/jobs/{'0' * 32}/products/1-asr.json", "placed:product"),
        (f"jobs/{'0' * 32}/fetches/3/input", "placed:fetched"),
        (f"jobs/{'0' * 32}", "placed:job"),
        ("probes/readiness", "placed:probe"),
    ],
)
def test_a_point_names_the_kind_of_file(key: str, point: str) -> None:
    assert point_of("placed", key) == point
