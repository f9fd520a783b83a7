"""A deployment brought to life: the files and variables that `modal deploy` sent, as a container finds them, and a process on them."""

import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any

from tests.conftest import ROOT
from tests.modal_deployment import Deployment
from tests.modal_server import Call

CODE, CONTEXT = "/app/", "/requirements/"


def lay_out(deployment: Deployment, folder: Path) -> dict[str, str]:
    """Writes the files under `folder`, as /app of the container; its variables."""
    for files in deployment.mounts.values():
        for name, content in files.items():
            path = folder / (name.removeprefix(CODE) if name.startswith(CODE) else name.removeprefix("/root/").lstrip("/"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    (folder / "requirements" / "torch.txt").write_text("torch==2.0.0\ntorchaudio==2.0.0\n")  # a line of the Dockerfile makes it there
    (sent,) = {frozenset(variables.items()) for variables in deployment.secrets.values() if variables}
    return dict(sent)


class ContainerProcess:
    """`run` is a server's remote function."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(folder), **variables}
        socket = str(folder / "socket")
        self._lock = threading.Lock()  # one input at a time, as a container takes them
        with Listener(socket, "AF_UNIX") as listener:
            program = ROOT / "tests" / "modal_container.py"
            self._process = subprocess.Popen([sys.executable, "-P", program, socket], cwd=folder, env=environment)
            self._box = listener.accept()
        self.wants_more = True

    def run(self, call: Call) -> Any:
        with self._lock:
            self._box.send((call.id, call.args))
            reply, self.wants_more = self._box.recv()
            return reply

    def close(self) -> None:
        self._box.close()
        self._process.wait(timeout=30)
