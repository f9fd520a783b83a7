"""A folder of wheels, filled from locks: what an index has only as source is built here, once."""

import hashlib
import os
import subprocess
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

from packaging.utils import parse_wheel_filename

from tools.locks import LOCKS, canonical, read_pins

# The lock's own platform is manylinux_2_31; pip takes each older one only by its name. The cu118 index calls its own plain linux.
PLATFORMS = ["linux_x86_64", *(f"manylinux{tag}_x86_64" for tag in (*(f"_2_{minor}" for minor in range(31, 4, -1)), "2014", "2010", "1"))]


class WheelsMissing(Exception):
    """A wheel could not be brought or built; pip or uv has said why."""


@dataclass(frozen=True)
class Wheel:
    path: Path

    @property
    def package(self) -> str:
        return canonical(parse_wheel_filename(self.path.name)[0])

    @property
    def pinned(self) -> str:
        """As a line of a lock: this very file and no other."""
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return f"{self.package}=={parse_wheel_filename(self.path.name)[1]} --hash=sha256:{digest}"

    @property
    def takes_cuda_from_packages(self) -> bool:
        """As PyPI's torch does; cu118's carries the libraries itself, and a second cuDNN beside them would abort the process."""
        with zipfile.ZipFile(self.path) as archive:
            metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            requires = Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist", [])
        return any(requirement.startswith("nvidia-") for requirement in requires)


@dataclass(frozen=True)
class Wheelhouse:
    """`pip` is a Python that has pip."""

    folder: Path
    uv: str
    pip: Path

    def wheels(self) -> dict[str, Wheel]:
        found = (Wheel(path) for path in sorted(self.folder.glob("*.whl")))
        return {wheel.package: wheel for wheel in found}

    def bring(self, lock: Path, index: str = "") -> list[str]:
        """The packages of the lock, which are there afterwards. Raises `WheelsMissing`."""
        pins = read_pins(lock.read_text())
        hashed = ["--require-hashes"] if any(pin.hashes for pin in pins.values()) else ["--only-binary", ":all:"]
        platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
        where = ["--index-url", index] if index else []
        download = ["-m", "pip", "download", "-qq", "--no-deps", "--python-version", "3.11", *platforms, *hashed, *where]
        _run([str(self.pip), *download, "--dest", str(self.folder), "-r", str(lock)])
        return list(pins)

    def build(self, constraints: Path = LOCKS / "worker.txt") -> None:
        """Makes a wheel of each source archive. What builds it comes from `constraints`, by hash. Raises `WheelsMissing`."""
        for source in [*self.folder.glob("*.tar.gz"), *self.folder.glob("*.zip")]:
            build = [self.uv, "build", "--quiet", "--wheel", "--python", str(self.pip), "--build-constraint", str(constraints)]
            _run([*build, "--out-dir", str(self.folder), str(source)])
            source.unlink()
        (self.folder / ".gitignore").unlink(missing_ok=True)  # uv's, for a checkout


def throw_away_pip(uv: str, folder: Path) -> Path:
    """A Python of its own with what requirements/tools.txt locks; from uv's cache alone if that has it. Raises `WheelsMissing`."""
    _run([uv, "venv", "--quiet", "--python", "3.11", str(folder)])
    python = folder / "bin" / "python"
    sync = [uv, "pip", "sync", "--quiet", "--python", str(python), "--require-hashes", str(LOCKS / "tools.txt")]
    if subprocess.run([*sync, "--offline"], capture_output=True, check=False).returncode != 0:
        _run(sync)
    return python


def _run(command: Iterable[str]) -> None:
    quiet = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    if subprocess.run([*command], env=quiet, check=False).returncode != 0:
        raise WheelsMissing("a wheel is missing: the lines above say why")
