"""Tiny programs in place of the service, the worker and the dispatcher, for tests of what starts and stops them."""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from tools.local_stack import LocalStack, Plan
from tools.supervisor import Patience, Program

SERVICE = """
import http.server, json, os
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"workers": [{"fit": True}]}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["SPILLWAY_PORT"])), Answer).serve_forever()
"""
# Like gunicorn and ffmpeg under the real ones: a child of its own, which must not be left behind.
PARENT = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
BROKEN = "import sys; sys.exit('no model here')"


def python(name: str, code: str) -> Program:
    return Program(name, (sys.executable, "-S", "-c", code))


PROGRAMS = (python("service", SERVICE), python("worker", PARENT), python("dispatcher", "import time; time.sleep(600)"))


def plan(folder: Path) -> Plan:
    return Plan(folder, port=0, programs=PROGRAMS, patience=Patience(stop_s=5.0))


def mark(folder: Path) -> dict[str, str]:
    """For the environment of every process that a test starts, so that the test can find those left over."""
    return {"STAND_IN_MARK": str(folder)}


def marked(folder: Path) -> list[int]:
    """By their environment, or their working folder: the Redis server writes its title over its environment."""
    processes = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and int(entry.name) != os.getpid()]
    return [int(process.name) for process in processes if _belongs(process, folder)]


def _belongs(process: Path, folder: Path) -> bool:
    with suppress(OSError):  # it ended between the two looks, or is another user's
        is_marked = f"STAND_IN_MARK={folder}".encode() in (process / "environ").read_bytes().split(b"\0")
        return is_marked or (process / "cwd").readlink().is_relative_to(folder)
    return False


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with LocalStack(plan(Path(sys.argv[1]))) as stack:
        stack.watch()


if __name__ == "__main__":
    main()
