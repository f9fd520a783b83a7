"""What a confined program cannot do, each beside the same program unconfined, which can."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from core import confined_process
from core.confine import DOES_NOT_START, landlock_version
from core.confined_process import confined
from tests.conftest import ROOT, wait_for

needs_landlock = pytest.mark.skipif(not landlock_version(), reason="this kernel has no Landlock")


class Done(NamedTuple):
    code: int
    stdout: bytes
    stderr: bytes


def run(command: Sequence[str], stdin: Path | None = None) -> Done:
    with open(stdin or os.devnull, "rb") as opened:
        done = subprocess.run(command, stdin=opened, capture_output=True, timeout=30)
    return Done(done.returncode, done.stdout, done.stderr)


def run_confined(command: Sequence[str], stdin: Path | None = None) -> Done:
    with (
        open(stdin or os.devnull, "rb") as opened,
        confined(command[0], command[1:], opened.fileno(), folder="/", cpu_s=10) as process,
        open(process.output, "rb", closefd=False) as output,
        open(process.said, "rb", closefd=False) as said,
    ):
        return Done(process.wait(30), output.read(), said.read())


def test_no_connection_leaves_it(ffmpeg: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        asking = [ffmpeg, "-nostdin", "-rw_timeout", "500000", "-i", f"http://127.0.0.1:{server.getsockname()[1]}/", "-f", "null", "-"]
        run(asking)
        server.accept()[0].close()
        done = run_confined(asking)
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert b"Permission denied" in done.stderr


@needs_landlock
def test_no_file_is_read_but_the_one_on_stdin(ffmpeg: str, tmp_path: Path) -> None:
    secret, own = tmp_path / "secret", tmp_path / "own"
    secret.write_bytes(b"secret" * 100)
    own.write_bytes(b"sound" * 100)
    for path, reads in ((f"file:{secret}", False), ("file:/dev/fd/0", True)):
        reading = [ffmpeg, "-nostdin", "-f", "u8", "-i", path, "-f", "u8", "-"]
        assert run(reading, stdin=own).stdout
        assert bool(run_confined(reading, stdin=own).stdout) == reads


@needs_landlock
def test_nothing_is_written_listed_or_signalled(tmp_path: Path) -> None:
    script = f"echo x > {tmp_path}/new; ls {tmp_path}; ls /; cat /etc/passwd; kill -0 {os.getpid()}; echo ended"
    assert b"root" in run(["/bin/sh", "-c", script]).stdout
    (tmp_path / "new").unlink()
    assert run_confined(["/bin/sh", "-c", script]).stdout == b"ended\n"
    assert list(tmp_path.iterdir()) == []


BEGINS = """
import os, sys
from core.confined_process import confined
from tests.conftest import ROOT, wait_for
stdin = os.open(os.devnull, os.O_RDONLY)
with confined("/bin/sh", ["-c", "echo $$; exec sleep 60"], stdin, folder="/", cpu_s=10) as process:
    os.write(1, os.read(process.output, 64))
    sys.stdin.read()
"""


def test_it_does_not_outlive_who_started_it() -> None:
    """Nor does the process between."""
    with subprocess.Popen([sys.executable, "-c", BEGINS], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        between = parent_of(pid) or 0
        assert parent_of(between) == owner.pid
        owner.kill()
    wait_for(lambda: parent_of(pid) is None and parent_of(between) is None, "both to end")


def test_one_that_is_killed_tells_and_is_no_longer_there() -> None:
    with devnull() as stdin, confined("/bin/sleep", ["60"], stdin, folder="/", cpu_s=10) as process:
        process.kill()
        assert process.wait(10) == -signal.SIGKILL


def test_runs_side_by_side_end_each_by_itself() -> None:
    """None holds another's pipes open."""
    with devnull() as stdin, confined("/bin/sleep", ["60"], stdin, folder="/", cpu_s=10) as sleeps:
        assert run_confined(["/bin/echo", "here"]) == (0, b"here\n", b"")
        with pytest.raises(TimeoutError):
            sleeps.wait(0.01)


def test_a_process_between_that_dies_takes_its_runs_along_and_is_begun_again() -> None:
    with devnull() as stdin, confined("/bin/sleep", ["60"], stdin, folder="/", cpu_s=10) as process:
        os.kill(confined_process._forkserver._pid, signal.SIGKILL)
        assert process.wait(10) == DOES_NOT_START
    assert run_confined(["/bin/echo", "here"]) == (0, b"here\n", b"")


def test_a_fork_of_this_process_has_a_process_between_of_its_own() -> None:
    assert run_confined(["/bin/true"]).code == 0
    reads, writes = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writes, str(run_confined(["/bin/sh", "-c", "exit 3"]).code).encode())
        os._exit(0)
    os.close(writes)
    with open(reads, "rb") as told:
        assert told.read() == b"3"
    os.waitpid(pid, 0)
    assert run_confined(["/bin/true"]).code == 0


def test_a_program_that_is_not_there_is_said() -> None:
    done = run_confined(["/nowhere/ffmpeg"])
    assert (done.code, b"/nowhere/ffmpeg cannot be confined and started" in done.stderr) == (DOES_NOT_START, True)


@contextmanager
def devnull() -> Iterator[int]:
    with open(os.devnull, "rb") as opened:
        yield opened.fileno()


def parent_of(pid: int) -> int | None:
    """None once it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None
