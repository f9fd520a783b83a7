"""A machine made of small programs on a PATH of its own and a few files, for tests of preflight."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import ROOT

TOOLS = ("awk", "cat", "dirname", "head", "printenv", "sleep", "timeout")
GIB = 1024**2  # in the kB of /proc/meminfo and df
TCP_HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


@dataclass
class FakeBox:
    """A good GPU box; a test spoils what it is about. `None` for a program means that it is not installed."""

    folder: Path
    kernel: tuple[str, str, str] = ("Linux", "x86_64", "6.8.0-45-generic")
    docker_info: dict[str, object] = field(
        default_factory=lambda: {
            "ServerVersion": "27.3.1",
            "DockerRootDir": "/var/lib/docker",
            "OperatingSystem": "Ubuntu 22.04.5 LTS",
            "Driver": "overlay2",
            "Runtimes": {"nvidia": {"path": "nvidia-container-runtime"}, "runc": {"path": "runc"}},
            "SecurityOptions": ["name=seccomp,profile=builtin"],
        }
    )
    docker_says: str | None = None  # in place of the information, with a failure
    docker: bool = True
    docker_hangs: bool = False
    containers: tuple[str, ...] = ()  # the states of this folder's containers
    publisher: str = ""
    compose: str | None = "2.29.7"
    compose_v1: bool = False
    driver: str = "550.54.15"
    cards: tuple[str, ...] = ("8.6, [N/A], 23028, 22565, NVIDIA A10G",)  # capability, MIG, MiB in all, MiB free, name
    smi: str | None = ""  # what nvidia-smi says in place of the cards
    smi_is_old: bool = False
    smi_hangs: bool = False
    toolkit: bool = True
    free_gb: Mapping[str, float] = field(default_factory=lambda: {"/": 120})
    memory_gib: float = 31.2
    listening: tuple[str, ...] = ()  # as /proc/net/tcp writes them
    environment: dict[str, str] = field(default_factory=dict)
    dotenv: str = ""

    def preflight(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        self._install()
        environment = {"PATH": str(self._bin), "PREFLIGHT_ROOT": str(self.folder / "root"), "PREFLIGHT_PATIENCE_S": "4", **self.environment}
        command = ["/bin/sh", str(self.checkout / "preflight"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    @property
    def checkout(self) -> Path:
        return self.folder / "checkout"

    @property
    def _bin(self) -> Path:
        return self.folder / "bin"

    def _install(self) -> None:
        self._bin.mkdir()
        for tool in TOOLS:
            (self._bin / tool).symlink_to(shutil.which(tool) or tool)
        shutil.copytree(ROOT / "tools" / "preflight", self.checkout / "tools" / "preflight")
        shutil.copy(ROOT / "preflight", self.checkout)
        (self.checkout / ".env").write_text(self.dotenv)
        self._install_files()
        self._install_host()
        self._install_docker()
        self._install_gpu()

    def _install_files(self) -> None:
        proc = self.folder / "root" / "proc"
        (proc / "net").mkdir(parents=True)
        (proc / "meminfo").write_text(f"MemTotal:       {round(self.memory_gib * GIB)} kB\nMemFree:        1024 kB\n")
        sockets = [f"   {n}: {address} 00000000:0000 0A 00000000:00000000 00:00000000\n" for n, address in enumerate(self.listening)]
        (proc / "net" / "tcp").write_text(TCP_HEADER + "".join(sockets))

    def _install_host(self) -> None:
        system, machine, release = self.kernel
        self._program("uname", f'case $1 in -s) echo "{system}";; -m) echo "{machine}";; -r) echo "{release}";; esac')
        lines = [f'  "{path}") free={round(gb * 1e9 / 1024)} ;;' for path, gb in self.free_gb.items()]
        table = 'echo "Filesystem 1024-blocks Used Available Capacity Mounted on"\necho "/dev/a disk 1 1 $free 50% $2"'
        self._program("df", "\n".join(["case $2 in", *lines, "  *) exit 1 ;;", "esac", table]))

    def _install_docker(self) -> None:
        if not self.docker:
            return
        (self.folder / "info").write_text(self.docker_says or json.dumps(self.docker_info, separators=(",", ":")))
        compose = f"echo {self.compose}" if self.compose else "echo \"docker: 'compose' is not a docker command.\" >&2; exit 1"
        info = "sleep 60" if self.docker_hangs else f"cat '{self.folder}/info'; exit {int(self.docker_says is not None)}"
        states = " ".join(self.containers)
        publisher = self.publisher.replace("CHECKOUT", str(self.checkout))
        answers = {
            '"info "*': info,
            '"compose version"*': compose,
            "*label=com.docker.compose.project.working_dir=*State*": f"echo '{states}'",
            "*publish=*": f"echo '{publisher}'",
            "*": "exit 1",
        }
        self._program("docker", "\n".join(['case "$*" in', *(f"  {call}) {answer} ;;" for call, answer in answers.items()), "esac"]))
        if self.compose_v1:
            self._program("docker-compose", "echo 1.29.2")

    def _install_gpu(self) -> None:
        if self.toolkit:
            self._program("nvidia-ctk", "exit 0")
        if self.smi is None:
            return
        said = self.smi or "\n".join(f"{self.driver}, {card}" for card in self.cards)
        if self.smi_is_old:
            said = "\n".join(f"{self.driver}, {card.split(', ', 2)[2]}" for card in self.cards)
        (self.folder / "smi").write_text(said + "\n")
        refusal = "echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2"
        old = f'case "$1" in *compute_cap*) {refusal} ;; esac\n' if self.smi_is_old else ""
        self._program("nvidia-smi", "sleep 60" if self.smi_hangs else f"{old}cat '{self.folder}/smi'; exit {9 if self.smi else 0}")

    def _program(self, name: str, body: str) -> None:
        path = self._bin / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
