"""How many GPUs CUDA shows to this container, asked of the driver itself: torch, NVML and their seconds are not needed for it."""

import ctypes
import subprocess
import sys
from collections.abc import Callable

DRIVER = "libcuda.so.1"
TIMEOUT_S = 60.0


def visible_gpus(load: Callable[[str], ctypes.CDLL] = ctypes.CDLL) -> int:
    """As `CUDA_VISIBLE_DEVICES` leaves them; 0 without a driver, or with one that does not work. Starts CUDA in this process."""
    try:
        driver = load(DRIVER)
    except OSError:
        return 0
    found = ctypes.c_int(0)
    is_well = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(found)) == 0
    return found.value if is_well else 0


def visible_gpus_elsewhere() -> int:
    """The same from a process of its own: whoever starts CUDA holds a context's memory and must not fork."""
    command = [sys.executable, "-m", "worker.visible_gpus"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False).stdout
    except subprocess.TimeoutExpired:  # a driver that hangs: the worker's own checks will say so
        return 0
    return int(said or 0)


if __name__ == "__main__":
    sys.stdout.write(str(visible_gpus()))
