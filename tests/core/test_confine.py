"""What a confined program cannot do, each beside the same program unconfined, which can."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from core import confine
from core.confine import landlock_version

needs_landlock = pytest.mark.skipif(not landlock_version(), reason="this kernel has no Landlock")


def confined(*command: str) -> list[str]:
    return [sys.executable, "-I", "-S", confine.__file__, str(os.getpid()), "10", *command]


def run(command: list[str], stdin: Path | None = None) -> "subprocess.CompletedProcess[bytes]":
    with open(stdin or os.devnull, "rb") as opened:
        return subprocess.run(command, stdin=opened, capture_output=True, timeout=30)


def test_no_connection_leaves_it(ffmpeg: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        asking = [ffmpeg, "-nostdin", "-rw_timeout", "500000", "-i", f"http://127.0.0.1:{server.getsockname()[1]}/", "-f", "null", "-"]
        run(asking)
        server.accept()[0].close()
        done = run(confined(*asking))
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
        assert bool(run(confined(*reading), stdin=own).stdout) == reads


@needs_landlock
def test_nothing_is_written_listed_or_signalled(tmp_path: Path) -> None:
    script = f"echo x > {tmp_path}/new; ls {tmp_path}; ls /; cat /etc/passwd; kill -0 {os.getpid()}; echo ended"
    assert b"root" in run(["/bin/sh", "-c", script]).stdout
    (tmp_path / "new").unlink()
    assert run(confined("/bin/sh", "-c", script)).stdout == b"ended\n"
    assert list(tmp_path.iterdir()) == []


def test_it_does_not_outlive_who_started_it() -> None:
    reads, writes = os.pipe()
    # The shell between starts it and ends; the pipe ends when the last of them has.
    between = f"import subprocess; subprocess.Popen(['sh', '-c', 'exec \"$@\"', 'sh', *{confined('/bin/sleep', '60')!r}])"
    dying = between.replace(repr(str(os.getpid())), "str(__import__('os').getpid())")
    with subprocess.Popen([sys.executable, "-c", dying], stdout=writes):
        os.close(writes)
    with open(reads, "rb") as ended:
        assert ended.read() == b""


def test_a_program_that_is_not_there_is_said() -> None:
    done = run(confined("/nowhere/ffmpeg"))
    assert (done.returncode, b"/nowhere/ffmpeg cannot be confined and started" in done.stderr) == (confine.DOES_NOT_START, True)
