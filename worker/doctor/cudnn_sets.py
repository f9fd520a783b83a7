"""Which sets of cuDNN 8 lie where the loader may find them. One is right; parts of two abort the process or crash it."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from shutil import which

PARTS = ("libcudnn_ops_infer.so.8", "libcudnn_cnn_infer.so.8")  # what CTranslate2's convolutions and torch's need
LD_CONFIG_PLACES = "/sbin:/usr/sbin:/usr/bin"


def reachable_sets() -> Mapping[Path, list[str]]:
    """The real folder of each set, and how it is reached."""
    found: dict[Path, list[str]] = {}
    for how, folder in _places():
        for part in PARTS:
            if (folder / part).exists():
                ways = found.setdefault((folder / part).resolve().parent, [])
                ways.extend([how] if how not in ways else [])
    return found


def library_path() -> list[Path]:
    """LD_LIBRARY_PATH as the loader reads it; an empty part would be the current folder."""
    return [Path(part) for part in os.environ.get("LD_LIBRARY_PATH", "").split(":") if part]


def torch_folders() -> list[Path]:
    """Where torch's own CUDA libraries lie: cu118's wheel carries them, PyPI's takes them from the nvidia packages beside it."""
    site = _site("torch")
    return [site / "torch" / "lib", *sorted((site / "nvidia").glob("*/lib"))] if site else []


def _places() -> Iterator[tuple[str, Path]]:
    yield from (("LD_LIBRARY_PATH", folder) for folder in library_path())
    yield from (("the loader's cache", folder) for folder in _loader_cache())
    yield from (("torch", folder) for folder in torch_folders())
    if site := _site("ctranslate2"):
        yield "CTranslate2's own folder", site / "ctranslate2.libs"


def _loader_cache() -> list[Path]:
    program = which("ldconfig", path=LD_CONFIG_PLACES)
    if program is None:  # a distribution without it has no cache either
        return []
    listing = subprocess.run([program, "-p"], capture_output=True, text=True, check=False).stdout
    files = [Path(line.partition(" => ")[2]) for line in listing.splitlines() if " => " in line]
    return list(dict.fromkeys(file.parent for file in files if file.name in PARTS))


def _site(package: str) -> Path | None:
    spec = find_spec(package)
    return Path(spec.origin).parents[1] if spec and spec.origin else None
