"""Which files of the GPU's libraries a process has really mapped, and whether they belong together."""

import re
from collections.abc import Mapping
from pathlib import Path

from worker.doctor.findings import Finding, Verdict

CHECK = "mapped libraries"
OF_INTEREST = re.compile(r"lib(cudnn|cublas|nvrtc|ctranslate2|torch_c|cudart)[^/]*\.so[^/]*$")
# The part of cuDNN 8 that does the work; libcudnn.so.8 and the copy of it in CTranslate2's wheel only open these.
WORKING = re.compile(r"libcudnn_[a-z]+_(infer|train)\.so\.8")
REMEDY = (
    "leave exactly one set of cuDNN 8 in the environment, torch's, with its folder on LD_LIBRARY_PATH before the process starts: uninstall "
    "nvidia-cudnn-cu12 and libcudnn packages, or build the image again (docs/gpu.md)"
)


def mapped_libraries(maps: str) -> dict[str, set[Path]]:
    """File name → the folders it was mapped from, of the text of /proc/PID/maps."""
    found: dict[str, set[Path]] = {}
    for line in maps.splitlines():
        path = Path(line.split(maxsplit=5)[-1])
        if path.is_absolute() and OF_INTEREST.search(str(path)):
            found.setdefault(path.name, set()).add(path.parent)
    return found


def mapped_finding(libraries: Mapping[str, set[Path]], device: str) -> Finding:
    described = ", ".join(f"{name} in {folder}" for name in sorted(libraries) for folder in sorted(libraries[name]))
    if device == "cpu":
        return Finding(CHECK, Verdict.OK, f"ran on the CPU: {described}")
    cudnn = {folder for name, folders in libraries.items() if WORKING.match(name) for folder in folders}
    if len(cudnn) == 1:
        return Finding(CHECK, Verdict.OK, f"one cuDNN, in {next(iter(cudnn))}: {described}")
    found = f"two sets of cuDNN 8 at once: {' and '.join(map(str, sorted(cudnn)))}" if cudnn else f"no cuDNN 8 was used: {described}"
    return Finding(CHECK, Verdict.WRONG, found, REMEDY)
