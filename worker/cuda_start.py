"""CUDA's first call, with patience: on some hosts it fails at first, and a process whose first call failed for good is of no use."""

import ctypes
from collections.abc import Callable
from time import sleep

from core.log import logger

log = logger("worker.cuda")
TRIES = 5
PAUSE_S = 1.0


def cuda_fault(initialise: Callable[[], int] | None = None, *, pause_s: float = PAUSE_S) -> str | None:
    """Why there is no CUDA here; to be asked before any library asks by itself."""
    try:
        initialise = initialise or _cu_init()
    except OSError as error:
        return f"no CUDA driver: {error}"
    for left in reversed(range(TRIES)):
        if (status := initialise()) == 0:
            return None
        log.warning("CUDA does not start", status=status, tries_left=left)
        sleep(pause_s if left else 0)
    return f"CUDA did not start in {TRIES} tries: error {status}"


def _cu_init() -> Callable[[], int]:
    driver = ctypes.CDLL("libcuda.so.1")
    return lambda: int(driver.cuInit(0))
