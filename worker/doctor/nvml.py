"""What the NVIDIA driver says of the GPUs, by NVML: without torch, without CUDA, and without touching a GPU's memory."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import pynvml

Value = TypeVar("Value")

START = (
    "start the container with a GPU: docker-compose.override.yml reserves it (do not pass -f docker-compose.yml alone), and the host needs "
    "the NVIDIA driver and nvidia-container-toolkit (./preflight checks both)"
)
# By NVML's error code: what went wrong, and what to do about it.
FAILURES = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: ("no NVIDIA driver can be seen from here (libnvidia-ml.so.1 is not there)", START),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (
        "the NVIDIA kernel module is not loaded",
        "on the host run `sudo modprobe nvidia`; if that fails, install the driver again and restart the host",
    ),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "the driver's library and its kernel module are of different versions: the driver was updated and the old one still runs",
        "restart the host",
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: ("the GPU's device files may not be opened", START),
    pynvml.NVML_ERROR_GPU_IS_LOST: (
        "the GPU is lost: it has fallen off the bus or stopped answering",
        "restart the host; if it happens again, `sudo dmesg | grep -i xid` says why (power, heat, the slot or the card)",
    ),
    pynvml.NVML_ERROR_RESET_REQUIRED: ("the GPU needs a reset", "on the host run `sudo nvidia-smi --gpu-reset`, or restart it"),
}
# What a card, a driver or a container may not tell: the answer is then a default.
UNTOLD = (
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_NOT_FOUND,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_NO_DATA,
)

UNCORRECTED_SINCE_START = (pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC)


class Unreadable(Exception):
    """`found` and `remedy` are for a finding."""

    def __init__(self, found: str, remedy: str) -> None:
        super().__init__(found)
        self.found, self.remedy = found, remedy


@dataclass(frozen=True)
class Process:
    """Another that holds a GPU's memory; how much is not always told."""

    pid: int
    name: str
    used_bytes: int | None


@dataclass(frozen=True)
class Gpu:
    """`memory_errors`: those that could not be corrected since the driver was loaded. `mig_instances`: None where the GPU is whole;
    of one that is partitioned the memory is the first instance's."""

    uuid: str
    name: str
    capability: tuple[int, int]
    total_bytes: int
    free_bytes: int
    others: tuple[Process, ...] = ()
    memory_errors: int = 0
    mig_instances: int | None = None


@dataclass(frozen=True)
class Report:
    """GPUs in the order of their bus addresses; a place holds what is wrong with a GPU that does not answer."""

    driver: str
    gpus: tuple[Gpu | Unreadable, ...]


def read_report() -> Report:
    """Raises Unreadable when there is no driver that answers."""
    with _translated():
        pynvml.nvmlInit()
        try:
            gpus = tuple(_gpu(index) for index in range(pynvml.nvmlDeviceGetCount()))
            return Report(pynvml.nvmlSystemGetDriverVersion(), gpus)
        finally:
            pynvml.nvmlShutdown()


def _gpu(index: int) -> Gpu | Unreadable:
    try:
        with _translated():
            return _read(pynvml.nvmlDeviceGetHandleByIndex(index))
    except Unreadable as error:
        return error


def _read(handle: Any) -> Gpu:
    instances = _mig_instances(handle)
    memory = pynvml.nvmlDeviceGetMemoryInfo(instances[0] if instances else handle)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        name=pynvml.nvmlDeviceGetName(handle),
        capability=(major, minor),
        total_bytes=memory.total,
        free_bytes=memory.free,
        others=() if instances else tuple(_others(handle)),
        memory_errors=_told(0, pynvml.nvmlDeviceGetTotalEccErrors, handle, *UNCORRECTED_SINCE_START),
        mig_instances=None if instances is None else len(instances),
    )


def _mig_instances(handle: Any) -> list[Any] | None:
    current, _ = _told((0, 0), pynvml.nvmlDeviceGetMigMode, handle)
    if current != pynvml.NVML_DEVICE_MIG_ENABLE:
        return None
    places = range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle))
    found = [_told(None, pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, place) for place in places]
    return [instance for instance in found if instance is not None]


def _others(handle: Any) -> Iterator[Process]:
    """Empty in a container that has its own process ids: the driver then tells none."""
    asked = (pynvml.nvmlDeviceGetComputeRunningProcesses, pynvml.nvmlDeviceGetGraphicsRunningProcesses)
    nobody: list[Any] = []
    running = {one.pid: one for ask in asked for one in _told(nobody, ask, handle)}
    for pid, one in running.items():
        if pid != os.getpid():
            yield Process(pid, _told("unknown", pynvml.nvmlSystemGetProcessName, pid), one.usedGpuMemory)


def _told(default: Value, ask: Callable[..., Value], *arguments: Any) -> Value:
    try:
        return ask(*arguments)
    except pynvml.NVMLError as error:
        if error.value not in UNTOLD:
            raise
        return default


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except pynvml.NVMLError as error:
        found, remedy = FAILURES.get(error.value, (f"the NVIDIA driver answers with an error: {error}", "restart the host"))
        raise Unreadable(found, remedy) from error
