"""Python, glibc and every package, against the lock that the worker is made from."""

import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from core.settings import Settings
from worker.doctor.findings import Finding, Verdict

REQUIREMENTS = Path(__file__).parents[2] / "requirements"  # beside the packages, in a checkout and in the image
LOCK, TORCH = "worker.txt", "torch.txt"
PYTHON = (3, 11)  # the pinned stack has wheels for 3.11; Celery 5.7 is the last line for it
GLIBC = Version("2.31")  # tools/lock.sh resolves the lock for manylinux_2_31
CU118_INDEX = "https://download.pytorch.org/whl/cu118"
MOST_NAMED = 5  # of the missing packages: where all are missing, one command brings them

# What another version breaks: the pins that pip's "newest" has lifted before.
WHY = {
    "numpy": "pyannote.audio 3.1.1 uses np.NaN, gone in numpy 2",
    "setuptools": "lightning 2.3.3 imports pkg_resources, gone in setuptools 81",
    "torch": "torch 2.4 and later bring cuDNN 9, and ctranslate2 4.4.0 needs cuDNN 8",
    "ctranslate2": "4.5 and later need cuDNN 9, and torch 2.0.0 brings cuDNN 8",
    "av": "faster-whisper 1.0.0 was made for av 11 and is known to work with the locked one",
    "pandas": "whisperx 3.2.0 was made for pandas 2",
    "torchaudio": "torchaudio 2.0.0 is the one built for torch 2.0.0",
}


@dataclass(frozen=True)
class _Present:
    version: Version
    folder: Path


def python_finding(version: Sequence[int | str] = sys.version_info) -> Finding:
    """`version` as in sys.version_info: a release candidate passes for its release in most tools, and jammy's own 3.11 is one."""
    number, level = ".".join(str(part) for part in version[:3]), version[3]
    if tuple(version[:2]) == PYTHON and level == "final":
        return Finding("Python", Verdict.OK, f"{number}, {sys.executable}")
    wanted = "a released Python 3.11 is needed: deadsnakes' python3.11 or uv's (`uv python install 3.11`); for an image, build it with"
    found = f"{number}, {sys.executable}" if level == "final" else f"{number} {level}, no released version, {sys.executable}"
    return Finding("Python", Verdict.WRONG, found, f"{wanted} another PYTHON_SOURCE than distro")


def glibc_finding(told: str | None = None) -> Finding:
    """`told` as confstr tells it: "glibc 2.35"."""
    found = _told_libc() if told is None else told
    if found.startswith("glibc ") and Version(found.removeprefix("glibc ")) >= GLIBC:
        return Finding("glibc", Verdict.OK, found)
    remedy = f"the locked wheels are for glibc {GLIBC} and later: take a newer distribution, such as Ubuntu 22.04, as the base"
    return Finding("glibc", Verdict.WRONG, found or "another C library", remedy)


def package_findings(settings: Settings, folder: Path = REQUIREMENTS) -> Iterator[Finding]:
    """One line when all are as locked, else one for each package that is not, and one for all that are missing."""
    try:
        pins = _pins(folder / LOCK) | _pins(folder / TORCH)
    except (OSError, InvalidRequirement) as error:
        yield _wrong(f"the lock cannot be read: {error}", f"put the checkout's requirements/ into {folder.parent}")
        return
    present = _present(pins)
    missing = {name: pin for name, pin in pins.items() if name not in present}
    deviations = [*_deviations(pins, present, settings), *_twice(pins, present), *([_missing(missing)] if missing else [])]
    yield from deviations or [Finding("packages", Verdict.OK, f"{len(pins)} packages as locked")]


def _told_libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):  # not glibc
        return ""


def _pins(lock: Path) -> dict[str, Version]:
    """Version by canonical name, of those that this machine is to have."""
    lines = re.sub(r"\\\n\s*", " ", lock.read_text()).splitlines()
    bare = [re.split(r"\s(?:#|--hash)", line)[0].strip() for line in lines if line.strip() and not line.lstrip().startswith(("#", "-"))]
    pins = [Requirement(line) for line in bare]
    return {
        canonicalize_name(pin.name): Version(next(iter(pin.specifier)).version) for pin in pins if not pin.marker or pin.marker.evaluate()
    }


def _present(names: Collection[str]) -> Mapping[str, list[_Present]]:
    """What Python would import, and what lies beside it in the same folder; setuptools, imported, adds a folder of older copies."""
    found: dict[str, list[_Present]] = {}
    for distribution in distributions():
        told, folder = distribution.metadata, Path(str(distribution.locate_file("")))  # metadata is parsed at every look
        name = canonicalize_name(told["Name"] or "")  # none in what an uninstall left behind
        if name in names and all(copy.folder == folder for copy in found.get(name, [])):
            found.setdefault(name, []).append(_Present(Version(told["Version"]), folder))
    return found


def _deviations(pins: Mapping[str, Version], present: Mapping[str, list[_Present]], settings: Settings) -> Iterator[Finding]:
    for name, pin in pins.items():
        if name in present and not _is_as_locked(name, present[name][0].version, pin, settings):
            wanted = f"{pin}+cu118" if name == "torch" and settings.gpu_stack == "cu118" else str(pin)
            found = f"{name} {present[name][0].version} is installed, {wanted} is locked"
            yield _wrong(found + _why(name, present[name][0].version, pin), _install({name: pin}, settings))


def _why(name: str, found: Version, pin: Version) -> str:
    if name == "torch" and found.public == pin.public:
        return ": PyPI's brings CUDA 11.7 and no code for an H100 (sm_90)"
    return f": {WHY[name]}" if name in WHY else ""


def _is_as_locked(name: str, found: Version, pin: Version, settings: Settings) -> bool:
    """The torch pair's local part says where its CUDA comes from; with the cu118 stack it must be that one's."""
    if name == "torch" and settings.gpu_stack == "cu118":
        return found.public == pin.public and found.local == "cu118"
    return found.public == pin.public if name in ("torch", "torchaudio") else found == pin


def _twice(pins: Mapping[str, Version], present: Mapping[str, list[_Present]]) -> Iterator[Finding]:
    """An interrupted or a second installer leaves two; which files are there then is anybody's guess."""
    for name in pins:
        copies = present.get(name, [])
        if len({copy.version for copy in copies}) > 1:
            versions = " and ".join(sorted(str(copy.version) for copy in copies))
            remedy = (
                f"remove what is too much (`pip uninstall {name}` until none is left), then `pip install --no-deps {name}=={pins[name]}`"
            )
            yield _wrong(f"{copies[0].folder} holds {name} in more than one version: {versions}", f"{remedy}; for an image, build it again")


def _missing(missing: Mapping[str, Version]) -> Finding:
    names = [f"{name} {version}" for name, version in missing.items()]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    is_few = len(missing) <= MOST_NAMED
    whole = f"`pip install --no-deps --require-hashes -r {REQUIREMENTS / LOCK}` and `pip install --no-deps -r {REQUIREMENTS / TORCH}`"
    remedy = _install(missing) if is_few else f"{whole}; is {sys.executable} the environment of the lock at all?"
    return _wrong(f"of the lock, missing here: {', '.join(names[:MOST_NAMED])}{more}", remedy)


def _install(pins: Mapping[str, Version], settings: Settings | None = None) -> str:
    index = f" --index-url {CU118_INDEX}" if settings and settings.gpu_stack == "cu118" and "torch" in pins else ""
    command = f"pip install --no-deps{index} {' '.join(f'{name}=={version}' for name, version in pins.items())}"
    return f"`{command}`; in a checkout `rm .venv/spillway-lock && make setup`; for an image, build it again"


def _wrong(found: str, remedy: str) -> Finding:
    return Finding("packages", Verdict.WRONG, found, remedy)
