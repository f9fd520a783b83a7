"""Runs the self-test (worker/doctor/deep.py) as a child and says what became of it, also where a CUDA library ended it."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from worker.doctor.findings import Finding, Verdict

ROOT = Path(__file__).parents[2]
CHECK = "deep: self-test"
COMMAND = (sys.executable, "-m", "worker.doctor.deep", "--json")
TIMEOUT_S = 600.0  # a cold start from a slow disk, and CTranslate2's kernels compiled
ONE_CUDNN = "leave one cuDNN 8 in the environment, torch's, with its folder on LD_LIBRARY_PATH before the process starts (docs/gpu.md)"
# What the libraries write when they break or end the process, and what it means in this stack; docs/gpu.md tells the story.
MEANINGS = {
    "nvrtcHelper": ("files of two cuDNN 8 sets are mixed in one process", ONE_CUDNN),
    "libnvrtc.so: cannot open": (
        "cuDNN 8.7 finds no file named libnvrtc.so",
        "put a libnvrtc.so on LD_LIBRARY_PATH, as the CUDA devel image does",
    ),
    "libcublas.so.11: cannot open": ("cuDNN 8.7 finds no cuBLAS 11", "put torch's folder of libraries on LD_LIBRARY_PATH"),
    "Could not load library libcudnn": ("a part of cuDNN 8 cannot be found", ONE_CUDNN),
    "libcublas.so.12 is not found": (
        "CTranslate2 finds no cuBLAS",
        "put libcublas.so.12 on LD_LIBRARY_PATH, as the CUDA 12 image does",
    ),
    "no kernel image is available": (
        "a library has no code for this GPU",
        "take a GPU from Pascal to Hopper (compute capability 6.0 to 9.0)",
    ),
    "unsupported toolchain": ("the driver is too old to compile CTranslate2's PTX", "install NVIDIA driver 535.54.03 or newer on the host"),
    "driver version is insufficient": ("the driver is too old for CUDA 12", "install NVIDIA driver 525.60.13 or newer on the host"),
}


def run_deep(command: Sequence[str] = COMMAND, *, timeout_s: float = TIMEOUT_S) -> list[Finding]:
    """The child's findings, or one that says how it ended without any."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        found = f"did not end within {timeout_s:.0f} s"
        return [Finding(CHECK, Verdict.WRONG, found, "see whether the disk or the GPU is busy (`nvidia-smi`), then run it again")]
    try:
        rows = json.loads(done.stdout)
    except ValueError:
        return [_ended(done.returncode, done.stderr)]
    return [Finding(**{**row, "verdict": Verdict(row["verdict"])}) for row in rows]


def _ended(status: int, said: str) -> Finding:
    how = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    for text, (meaning, remedy) in MEANINGS.items():
        if text in said:
            return Finding(CHECK, Verdict.WRONG, f"{meaning} ({how}: {_line_with(text, said)})", remedy)
    if status == -signal.SIGSEGV:
        return Finding(CHECK, Verdict.WRONG, f"{how}, without a message: files of two cuDNN 8 sets mixed do that", ONE_CUDNN)
    last = said.strip().rsplit("\n", 1)[-1] or "it said nothing"
    return Finding(CHECK, Verdict.WRONG, f"{how}: {last}", "run `python -m worker.doctor.deep` for the whole message")


def _line_with(text: str, said: str) -> str:
    return next(line.strip() for line in said.splitlines() if text in line)
