"""Whether a library's CUDA code runs on a GPU: as it is, compiled by the driver when it is first needed, or not at all.

NVIDIA's rules (CUDA C++ Programming Guide, binary and PTX compatibility): machine code (sm_86) runs on GPUs of its own major
version and no lower minor one; PTX (compute_86) is compiled for any GPU that is not older.
"""

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum

from core.errors import OurError
from worker.engine.budget import Capability

# The fatbins of ctranslate2 4.4.0's wheel (libctranslate2.so.4.4.0); their PTX says `.version 8.2`.
CTRANSLATE2_ARCHS = ("sm_53", "sm_60", "sm_61", "sm_70", "sm_75", "sm_80", "sm_86", "compute_86")

Version = tuple[int, ...]

# NVIDIA, CUDA Toolkit release notes, "Minimum Required Driver Version for CUDA Minor Version Compatibility": 12.x needs
# 525.60.13 (11.x, torch's, 450.80.02). CTranslate2 and the image's cuBLAS 12 are of 12.x.
DRIVER: Version = (525, 60, 13)
# Minor version compatibility does not hold for PTX, which needs a driver as new as the compiler: PTX 8.2 is CUDA 12.2's, and
# that came with this driver (the same release notes).
PTX_DRIVER: Version = (535, 54, 3)

GENERATIONS = {
    (3, 0): "Kepler", (5, 0): "Maxwell", (6, 0): "Pascal", (7, 0): "Volta", (7, 5): "Turing",
    (8, 0): "Ampere", (8, 9): "Ada Lovelace", (9, 0): "Hopper", (10, 0): "Blackwell",
}  # fmt: skip


class Fit(StrEnum):
    NATIVE = "native"
    COMPILED = "compiled from PTX at first use"
    NONE = "none"


def fit(capability: Capability, archs: Iterable[str]) -> Fit:
    """`archs` as torch names them: sm_86, compute_86."""
    parsed = [_parsed(arch) for arch in archs]
    if any(kind == "sm" and built[0] == capability[0] and built[1] <= capability[1] for kind, built in parsed):
        return Fit.NATIVE
    return Fit.COMPILED if any(kind == "compute" and built <= capability for kind, built in parsed) else Fit.NONE


def generation(capability: Capability) -> str:
    names = [name for since, name in GENERATIONS.items() if since <= capability]
    return f"{names[-1] if names else 'before Kepler'}, {capability[0]}.{capability[1]}"


def driver_needed(capability: Capability, archs: Iterable[str] = CTRANSLATE2_ARCHS) -> Version:
    return PTX_DRIVER if fit(capability, archs) == Fit.COMPILED else DRIVER


def version(text: str) -> Version:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def dotted(parts: Sequence[int]) -> str:
    """As NVIDIA writes it: two digits at least after the first."""
    return ".".join(f"{part:02d}" for part in parts)


def _parsed(arch: str) -> tuple[str, Capability]:
    found = re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", arch)
    if found is None:
        raise OurError(f"{arch!r} is not a CUDA architecture such as sm_86 or compute_86")
    return found[1], (int(found[2]), int(found[3]))
