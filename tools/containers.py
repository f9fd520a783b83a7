"""Docker and Compose as the image tools call them, whichever client this machine has."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CUDA_INDEX = "https://download.pytorch.org/whl/cu118"
PACKAGE_INDEX = "https://pypi.org/simple"
BUILT_IN_BUILDKIT = 23  # from this client on BuildKit is a plugin, which Debian's docker.io does not bring


class ContainerFailed(Exception):
    """The message names the command and carries what it said last."""


@dataclass(frozen=True)
class Docker:
    """`program` speaks to the engine, `compose` is Compose's command of that engine."""

    program: str
    compose: tuple[str, ...]

    def run(self, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
        return command((self.program, *arguments), environment)

    def build(self, context: Path, target: str, tag: str, arguments: Mapping[str, str], *, cold: bool = False) -> str:
        given = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        fresh = ["--no-cache"] if cold else []
        return self.run("build", *fresh, *given, f"--target={target}", f"--tag={tag}", str(context), environment={"DOCKER_BUILDKIT": "1"})

    def size_bytes(self, image: str) -> int:
        return int(self.run("image", "inspect", "--format={{.Size}}", image))

    def label(self, image: str, name: str) -> str | None:
        """None without the label, and for an image that is not here yet."""
        try:
            return self.run("image", "inspect", f'--format={{{{index .Config.Labels "{name}"}}}}', image).strip() or None
        except ContainerFailed:
            return None


@dataclass(frozen=True)
class Project:
    """One Compose project: its files, its name, and what its variables are set to."""

    docker: Docker
    name: str
    files: Sequence[Path]
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, *arguments: str) -> str:
        files = [part for path in self.files for part in ("-f", str(path))]
        settings = {"DOCKER_BUILDKIT": "1", "COMPOSE_DOCKER_CLI_BUILD": "1", **self.environment}
        return command((*self.docker.compose, *files, "-p", self.name, *arguments), settings)

    def container(self, service: str) -> str:
        return self.run("ps", "-q", service).strip()


def find_docker() -> Docker:
    """Raises `ContainerFailed` where there is no Docker that answers."""
    programs = list(_on_path("docker"))
    if not programs:
        raise ContainerFailed("there is no docker on PATH: install Docker Engine, https://docs.docker.com/engine/install/")
    program = next(filter(_builds, programs), programs[0])
    command((program, "version"))
    return Docker(program, _compose(program))


def command(words: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """What it printed. Raises `ContainerFailed`."""
    done = subprocess.run(
        words, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-25:])
        raise ContainerFailed(f"`{' '.join(words[:6])} …` failed with status {done.returncode}:\n{said}")
    return done.stdout


def _compose(program: str) -> tuple[str, ...]:
    if _succeeds((program, "compose", "version")):
        return (program, "compose")
    if old := shutil.which("docker-compose"):
        return (old,)
    raise ContainerFailed("there is no Compose: install docker-compose-plugin")


def _builds(program: str) -> bool:
    """With BuildKit: by its plugin, or a client old enough to have it built in."""
    if _succeeds((program, "buildx", "version")):
        return True
    version = re.search(r"version (\d+)\.", subprocess.run((program, "--version"), capture_output=True, text=True, check=False).stdout)
    return version is not None and int(version[1]) < BUILT_IN_BUILDKIT


def _succeeds(words: Sequence[str]) -> bool:
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def _on_path(name: str) -> Iterator[str]:
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if shutil.which(name, path=folder):
            yield str(Path(folder) / name)
