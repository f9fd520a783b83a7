"""A slot belongs to one process alive, so that nobody takes jobs from a worker that still runs them."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from worker.slots import Slot, take_slot

TAKE_AND_WAIT = """
import sys
from pathlib import Path
from worker.slots import take_slot
slot = take_slot("gpu-box", Path(sys.argv[1]))
print(slot.name, flush=True)
sys.stdin.read()
"""


def holder(folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", TAKE_AND_WAIT, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def name_of(slot: Slot) -> str:
    """Lets go of it."""
    slot.lock.close()
    return slot.name


def test_workers_of_one_name_get_a_slot_each_and_a_killed_ones_is_free_at_once(tmp_path: Path) -> None:
    with holder(tmp_path) as first, holder(tmp_path) as second:
        assert first.stdout
        assert second.stdout
        assert {first.stdout.readline(), second.stdout.readline()} == {"gpu-box\n", "gpu-box.2\n"}
        assert name_of(take_slot("gpu-box", tmp_path)) == "gpu-box.3"
        for worker in (first, second):
            worker.kill()
            worker.wait()
        assert [name_of(take_slot(name, tmp_path)) for name in ("gpu-box", "other")] == ["gpu-box", "other"]


@pytest.mark.parametrize("name", ["a/b", "../a", "über"])
def test_any_name_is_a_file_in_the_folder(tmp_path: Path, name: str) -> None:
    assert name_of(take_slot(name, tmp_path)) == name
    assert len(list((tmp_path / "slots").iterdir())) == 1
