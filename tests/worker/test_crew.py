"""The processes of a container, started by a real launcher."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from core.settings import Settings
from tests.conftest import ROOT, wait_for
from worker import __main__ as launcher
from worker.crew import MOST_QUICK_DEATHS, QUICK_DEATH_S, UNFIT, Roll, read_roll, write_roll
from worker.visible_gpus import visible_gpus, visible_gpus_elsewhere

# Notes every SIGTERM; ends at the second, or with what the file `end` beside the notes says.
PROCESS = """
import os, pathlib, signal, sys, time
notes = pathlib.Path(sys.argv[1]) / os.environ["NAME"]
heard = []
def note(*_):
    heard.append(1)
    notes.write_text("heard " * len(heard))
    if len(heard) == int(os.environ.get("PATIENCE", "1")):
        sys.exit(0)
signal.signal(signal.SIGTERM, note)
if "ORPHAN" in os.environ:
    os.system("sleep 0.1 &")  # its shell ends first
with notes.with_suffix(".starts").open("a") as starts:
    starts.write("up ")
notes.write_text("up")
end = notes.with_suffix(".end")
while not end.exists():
    time.sleep(0.02)
how = end.read_text()
end.unlink()
os.kill(os.getpid(), signal.SIGKILL) if how == "kill" else sys.exit(int(how))
"""
LAUNCHER = """
import ctypes, os, sys
from worker import crew
from worker.crew import Crew
crew.QUICK_DEATH_S = float(sys.argv[5])
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans come to it, as to a container's first process
names, patience = sys.argv[3].split(","), sys.argv[4]
environments = [{**os.environ, "NAME": name, "PATIENCE": patience} for name in names]
sys.exit(Crew([sys.executable, "-c", sys.argv[1], sys.argv[2]], environments).run())
"""


class Launched:
    def __init__(self, folder: Path, process: "subprocess.Popen[bytes]", names: tuple[str, ...]) -> None:
        self.folder, self.process, self.names = folder, process, names

    def notes(self) -> list[str]:
        return [(self.folder / name).read_text().strip() if (self.folder / name).exists() else "" for name in self.names]

    def starts(self, name: str) -> int:
        return len((self.folder / f"{name}.starts").read_text().split())

    def has_lived(self, seconds: float) -> bool:
        """Whether the last that was started has, for more than that."""
        return time.time() - max((self.folder / f"{name}.starts").stat().st_mtime for name in self.names) > 1.5 * seconds

    def end(self, name: str, how: str) -> None:
        unseen = self.folder / "unseen"
        unseen.write_text(how)
        unseen.rename(self.folder / f"{name}.end")


@contextmanager
def launched(folder: Path, *, patience: int = 1, names: tuple[str, ...] = ("a", "b"), quick_s: float = QUICK_DEATH_S) -> Iterator[Launched]:
    command = [sys.executable, "-c", LAUNCHER, PROCESS, str(folder), ",".join(names), str(patience), str(quick_s)]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "TMPDIR": str(folder)}) as process:
        running = Launched(folder, process, names)
        try:
            wait_for(lambda: set(running.notes()) == {"up"}, "every process to be up")
            yield running
        finally:
            for name in names:
                running.end(name, "9")
            process.kill()


def is_gone(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_every_process_and_all_are_waited_for(tmp_path: Path, number: signal.Signals) -> None:
    with launched(tmp_path) as crew:
        crew.process.send_signal(number)
        assert crew.process.wait(10) == 0
        assert crew.notes() == ["heard", "heard"]


def test_a_second_signal_goes_on_as_a_second_one(tmp_path: Path) -> None:
    with launched(tmp_path, patience=2) as crew:
        crew.process.send_signal(signal.SIGTERM)
        wait_for(lambda: crew.notes() == ["heard", "heard"], "the first to be heard")
        assert crew.process.poll() is None
        crew.process.send_signal(signal.SIGTERM)
        assert crew.process.wait(10) == 0
        assert crew.notes() == ["heard heard", "heard heard"]


@pytest.mark.parametrize(("how", "status"), [("70", 70), ("kill", 137)])
def test_one_that_ends_is_started_again_beside_the_others_until_there_is_no_use_in_it(tmp_path: Path, how: str, status: int) -> None:
    with launched(tmp_path) as crew:
        for again in range(2, MOST_QUICK_DEATHS + 1):
            crew.end("b", how)
            wait_for(lambda: crew.starts("b") == again, "it to be started again")  # noqa: B023 - waited for within the turn
        wait_for(lambda: crew.notes() == ["up", "up"], "both to be up")
        assert crew.starts("a") == 1
        crew.end("b", how)
        assert crew.process.wait(10) == status
        assert crew.notes() == ["heard", "up"]


def test_an_unfit_one_is_started_again_and_the_other_hears_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.crew.tempfile.gettempdir", lambda: str(tmp_path))
    with launched(tmp_path) as crew:
        for again in (2, 3):
            crew.end("b", str(UNFIT))
            wait_for(lambda: crew.starts("b") == again, "it to be started again")  # noqa: B023 - waited for within the turn
        wait_for(lambda: (roll := read_roll()) and [*map(is_gone, roll.processes)] == [False, False], "the roll to name those alive")
        wait_for(lambda: crew.notes() == ["up", "up"], "both to be up")
        assert crew.starts("a") == 1


@pytest.mark.parametrize("names", [("a",), ("a", "b")])
def test_once_all_have_ended_unfit_the_launcher_ends_so(tmp_path: Path, names: tuple[str, ...]) -> None:
    with launched(tmp_path, names=names) as crew:
        for name in names:
            crew.end(name, str(UNFIT))
            wait_for(lambda: crew.process.poll() is not None or crew.starts("a") == 2, "the next start, or the end")
        assert crew.process.wait(10) == UNFIT


def test_one_that_was_unfit_once_and_lives_is_not_stopped_for_another(tmp_path: Path) -> None:
    with launched(tmp_path, quick_s=0.5) as crew:
        crew.end("a", str(UNFIT))
        wait_for(lambda: crew.starts("a") == 2, "it to be started again")
        wait_for(lambda: crew.has_lived(0.5), "it to have lived")
        crew.end("b", str(UNFIT))
        wait_for(lambda: crew.process.poll() is not None or crew.starts("b") == 2, "the next start, or the end")
        assert crew.process.poll() is None
        wait_for(lambda: crew.notes() == ["up", "up"], "both to be up")


def test_one_that_died_of_something_else_since_it_was_unfit_may_be_fit(tmp_path: Path) -> None:
    with launched(tmp_path) as crew:
        for again, how in ((2, str(UNFIT)), (3, "70")):
            crew.end("a", how)
            wait_for(lambda: crew.starts("a") == again, "it to be started again")  # noqa: B023 - waited for within the turn
        crew.end("b", str(UNFIT))
        wait_for(lambda: crew.process.poll() is not None or crew.starts("b") == 2, "the next start, or the end")
        assert crew.process.poll() is None


def test_a_launcher_killed_outright_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.crew.tempfile.gettempdir", lambda: str(tmp_path))
    with launched(tmp_path) as crew:
        wait_for(read_roll, "the roll to be written")
        roll = read_roll()
        assert roll
        assert roll.launcher == crew.process.pid
        crew.process.kill()
        crew.process.wait()
        wait_for(lambda: all(map(is_gone, roll.processes)), "its processes to hand back and end")
        assert crew.notes() == ["heard", "heard"]


def test_orphans_that_come_to_a_containers_first_process_are_reaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORPHAN", "1")
    with launched(tmp_path) as crew:
        children = Path(f"/proc/{crew.process.pid}/task/{crew.process.pid}/children")
        wait_for(lambda: len(children.read_text().split()) == 2, "the orphans to be gone")


def test_the_roll_is_read_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.crew.tempfile.gettempdir", lambda: str(tmp_path))
    assert read_roll() is None
    write_roll(Roll(1, (2, 3)))
    assert read_roll() == Roll(1, (2, 3))


@pytest.mark.parametrize(
    ("given", "gpus", "places"),
    [
        ({"SPILLWAY_DEVICE": "cpu", "SPILLWAY_WORKER_SLOT": "box"}, 2, [(None, "box")]),
        ({"SPILLWAY_WORKER_SLOT": "box"}, 0, [(None, "box")]),
        ({"SPILLWAY_WORKER_SLOT": "box"}, 1, [(None, "box")]),
        ({"SPILLWAY_WORKER_SLOT": "box"}, 2, [("0", "box-0"), ("1", "box-1")]),
        ({}, 2, [("0", None), ("1", None)]),
        ({"SPILLWAY_DEVICE_INDEX": "1", "SPILLWAY_WORKER_SLOT": "box"}, 2, [("1", "box")]),
    ],
)
def test_there_is_a_process_for_each_gpu_with_a_slot_of_its_own(
    given: dict[str, str], gpus: int, places: list[tuple[str | None, str | None]]
) -> None:
    planned = launcher.environments(Settings.from_environment(given), {**given, "PATH": "/bin"}, lambda: gpus)
    assert [(process.get("SPILLWAY_DEVICE_INDEX"), process.get("SPILLWAY_WORKER_SLOT")) for process in planned] == places
    assert {process["PATH"] for process in planned} == {"/bin"}


@pytest.mark.parametrize(("init", "count", "found"), [("0", "0, *count = 3", 3), ("100", "0, *count = 3", 0), ("0", "1", 0)])
def test_the_driver_says_how_many_gpus_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, init: str, count: str, found: int
) -> None:
    """A driver of our own, found as the real one would be; 100 is CUDA_ERROR_NO_DEVICE."""
    source = tmp_path / "driver.c"
    source.write_text(f"int cuInit(unsigned f) {{ return {init}; }} int cuDeviceGetCount(int *count) {{ int r; r = {count}; return r; }}")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", source], check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert visible_gpus_elsewhere() == found


def test_without_a_driver_no_gpu_is_seen() -> None:
    def absent(name: str) -> object:
        raise OSError(f"{name}: cannot open shared object file")

    assert visible_gpus(absent) == 0  # type: ignore[arg-type]
