"""What Modal asks for a container, in dollars per second: its published prices of 2026-07-01; `modal billing rates` tells today's."""

from collections.abc import Iterable, Sequence

from core.burst import CONTAINER_CORES, CONTAINER_GIB

GPU = {
    "T4": 0.000164, "L4": 0.000222, "A10": 0.000306, "A10G": 0.000306, "L40S": 0.000542, "A100": 0.000694, "A100-40GB": 0.000583,
    "A100-80GB": 0.000694, "H100": 0.001097, "H100!": 0.001097, "H200": 0.001261,
}  # fmt: skip
CORE, GIB = 0.0000131, 0.00000222


def price_per_s(gpu: str) -> float:
    return GPU[gpu] + CONTAINER_CORES * CORE + CONTAINER_GIB * GIB


def dearest_per_s(gpus: Sequence[str]) -> float:
    """Nobody knows beforehand which of them a call gets."""
    return max(map(price_per_s, gpus))


def paid_per_s(device: str, gpus: Sequence[str]) -> float:
    """Of the card that a container names, as `NVIDIA A10G` or `NVIDIA L40S`; of one that is not recognised the dearest. It need not be
    one of `gpus`: a deployment keeps its own until the next."""
    return dearest_per_s(_named(device, gpus) or _named(device, GPU) or gpus)


def _named(device: str, gpus: Iterable[str]) -> list[str]:
    words = device.upper().replace("-", " ").split()
    return [gpu for gpu in gpus if gpu.rstrip("!").split("-")[0] in words or (gpu == "A10" and "A10G" in words)]
