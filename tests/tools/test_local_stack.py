import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import SettingsError
from tests.conftest import wait_for
from tests.tools import stand_ins
from tools import background
from tools.local_stack import ROOT, LocalStack, StackFailed
from tools.stack_parts import free_port, service_is_ready
from tools.state_lock import FolderTaken, holder_of, turn
from tools.supervisor import Patience

Running = Callable[[], list[int]]


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """Gives the processes of the test; what a failed one leaves behind ends here all the same."""
    for name, value in stand_ins.mark(tmp_path).items():
        monkeypatch.setenv(name, value)
    yield lambda: stand_ins.marked(tmp_path)
    for pid in stand_ins.marked(tmp_path):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A process of its own that runs the stand-ins."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return [sys.executable, stand_ins.__file__, str(tmp_path)]


def test_a_launcher_killed_outright_leaves_no_process(launcher: list[str], tmp_path: Path, running: Running) -> None:
    process = subprocess.Popen(launcher)
    wait_for(lambda: (holder := holder_of(tmp_path)) and holder.url, "the stack to be ready")
    assert len(running()) >= 5
    process.kill()
    process.wait()
    # What a child started itself (gunicorn's workers, ffmpeg) is not the kernel's to end: it notices that its parent or its pipe is gone.
    wait_for(lambda: not [pid for pid in running() if os.getpgid(pid) == pid], "every process to end")
    assert holder_of(tmp_path) is None


def test_stopping_leaves_nothing_not_even_grandchildren(tmp_path: Path, running: Running) -> None:
    with LocalStack(stand_ins.plan(tmp_path)):
        wait_for(lambda: len(running()) == 5, "redis, three stand-ins and the worker's own child")
    assert running() == []
    assert holder_of(tmp_path) is None


def test_a_process_that_ignores_sigterm_is_killed_at_the_deadline(tmp_path: Path, running: Running) -> None:
    said: list[str] = []
    plan = stand_ins.plan(tmp_path)
    stubborn = (*plan.programs, stand_ins.python("stubborn", stand_ins.STUBBORN))
    with LocalStack(replace(plan, programs=stubborn, patience=Patience(stop_s=0.5)), said.append):
        wait_for(lambda: (tmp_path / "logs" / "stubborn.log").read_text() == "up\n", "it to ignore the signal")
    assert running() == []
    assert "stubborn did not stop within 0 s: killing it" in said


@pytest.mark.parametrize("name", ["redis", "service", "worker", "dispatcher"])
def test_a_process_that_dies_is_started_again(name: str, tmp_path: Path) -> None:
    said: list[str] = []
    with LocalStack(stand_ins.plan(tmp_path), said.append) as stack:
        first = stack.pid(name)
        assert first is not None
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: stack.pid(name) not in (None, first), "its next life")
    assert f"{name} ended with SIGKILL: starting it again" in said


def test_a_process_that_keeps_dying_is_given_up_with_its_last_words(tmp_path: Path, running: Running) -> None:
    plan = stand_ins.plan(tmp_path)
    programs = (*plan.programs[:2], stand_ins.python("dispatcher", stand_ins.BROKEN))
    stack = LocalStack(replace(plan, programs=programs, patience=Patience(first_deaths=9, quick_deaths=2)))
    # On a busy box it has died twice before all is well, and goes with the third.
    with pytest.raises(StackFailed, match=r"(?s)dispatcher ended [2-9] times in a row, at last with exit status 1.*no model here"), stack:
        stack.watch()
    assert running() == []


def test_a_worker_that_never_gets_fit_is_named_with_its_reason(tmp_path: Path) -> None:
    plan = stand_ins.plan(tmp_path)
    silent = stand_ins.python("service", stand_ins.SERVICE.replace('{"fit": True}', '{"fit": False, "reason": "no GPU"}'))
    stack = LocalStack(replace(plan, programs=(silent, *plan.programs[1:]), ready_timeout_s=1.0))
    with pytest.raises(StackFailed, match=r"worker was not ready within 1 s \(no GPU\)"), stack:
        pass


@pytest.mark.parametrize("state", ["unfit", "models_missing"])
def test_a_worker_that_says_it_is_unfit_is_not_waited_for(tmp_path: Path, state: str) -> None:
    plan = stand_ins.plan(tmp_path)
    report = f'{{"fit": False, "state": "{state}", "reason": "no GPU"}}'
    unfit = stand_ins.python("service", stand_ins.SERVICE.replace('{"fit": True}', report))
    stack = LocalStack(replace(plan, programs=(unfit, *plan.programs[1:])))
    with pytest.raises(StackFailed, match=r"(?s)the worker cannot work: no GPU.*worker\.log"), stack:
        pass


def test_a_taken_port_is_skipped(tmp_path: Path) -> None:
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with LocalStack(replace(stand_ins.plan(tmp_path), port=port), said.append) as stack:
            assert stack.url != f"http://127.0.0.1:{port}"
    assert any(line.startswith(f"port {port} is taken: using ") for line in said)


def test_a_port_that_was_just_closed_is_not_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        server.accept()[0].close()
        client.close()
    assert free_port(port) == port


def test_two_stacks_never_share_a_folder(tmp_path: Path) -> None:
    with LocalStack(stand_ins.plan(tmp_path)), pytest.raises(FolderTaken), LocalStack(stand_ins.plan(tmp_path)):
        pass


def test_two_starts_in_one_folder_take_turns(tmp_path: Path) -> None:
    order: list[str] = []
    waits = threading.Event()

    def second() -> None:
        with turn(tmp_path, waits.set):
            order.append("second")

    thread = threading.Thread(target=second)
    with turn(tmp_path, lambda: order.append("waits for nobody")):
        thread.start()
        assert waits.wait(timeout=10)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]


def test_two_stacks_run_side_by_side_in_two_folders(tmp_path: Path) -> None:
    with LocalStack(stand_ins.plan(tmp_path / "a")) as one, LocalStack(stand_ins.plan(tmp_path / "b")) as other:
        assert (one.url, one.redis_url) != (other.url, other.redis_url)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("SPILLWAY_BEAMS", "1", "SPILLWAY_BEAMS"), ("SPILLWAY_ACCESS", "keys", "SPILLWAY_ACCESS is keys, and this stack is open")],
)
def test_a_wrong_setting_is_named_before_anything_of_ours_starts(
    tmp_path: Path, running: Running, name: str, value: str, said: str
) -> None:
    with (
        pytest.raises(SettingsError, match=said),
        LocalStack(replace(stand_ins.plan(tmp_path), settings={name: value})),
    ):
        pass
    assert running() == []


def test_a_setting_that_the_stack_decides_itself_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    said: list[str] = []
    settings = {"SPILLWAY_FILE_STORE_DIR": "/elsewhere", "SPILLWAY_BEAM_SIZE": "1"}
    with LocalStack(replace(stand_ins.plan(tmp_path), settings=settings), said.append):
        pass
    assert [line for line in said if "passed over" in line] == [
        f"SPILLWAY_FILE_STORE_DIR is passed over: this stack has its own, {tmp_path}/files"
    ]


def test_settings_of_our_own_environment_are_not_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPILLWAY_BEAMS", "1")
    with LocalStack(stand_ins.plan(tmp_path)) as stack:
        assert b"SPILLWAY_BEAMS" not in Path(f"/proc/{stack.pid('service')}/environ").read_bytes()


def test_a_stack_in_the_background_is_waited_for_found_and_stopped(launcher: list[str], tmp_path: Path, running: Running) -> None:
    holder = background.start(launcher, tmp_path, tmp_path / "logs" / "up.log")
    assert holder is not None
    assert background.settled_holder(tmp_path) == holder
    assert background.stop(tmp_path)
    assert running() == []
    assert not background.stop(tmp_path)


def test_a_background_stack_that_fails_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert background.start([sys.executable, "-c", "exit('no room')"], tmp_path, tmp_path / "up.log") is None
    assert "no room" in capsys.readouterr().out


def test_the_real_stack_killed_outright_leaves_no_process(tmp_path: Path, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("SPILLWAY_PORT", str(port))
    with (tmp_path / "launcher.log").open("wb") as log:
        command = [sys.executable, "-m", "tools.local_stack", "run", "--state-dir", str(tmp_path)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    wait_for(lambda: service_is_ready(f"http://127.0.0.1:{port}"), "the service to be ready", timeout_s=90)
    process.kill()
    process.wait()
    wait_for(lambda: running() == [], "every process to end, gunicorn's own included", timeout_s=30)
