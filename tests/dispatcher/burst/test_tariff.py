"""What a container costs, by the card that it names."""

import pytest

from core.settings import MODAL_GPUS
from dispatcher.burst.tariff import GPU, dearest_per_s, paid_per_s, price_per_s

GPUS = ("A10", "L4", "L40S", "A100-40GB", "A100-80GB", "H100!")
CORES_AND_MEMORY = 4 * 0.0000131 + 16 * 0.00000222


@pytest.mark.parametrize(
    ("device", "gpu"),
    [
        ("NVIDIA A10G", "A10"), ("NVIDIA A10", "A10"), ("NVIDIA L4", "L4"), ("NVIDIA L40S", "L40S"),
        ("NVIDIA A100-SXM4-40GB", "A100-80GB"),  # which of the two is not told by every name: the dearer
        ("NVIDIA H100 80GB HBM3", "H100!"), ("cpu", "H100!"), ("", "H100!"),
        ("NVIDIA H200", "H200"),  # not asked for any more, but by the deployment
    ],
)  # fmt: skip
def test_a_card_costs_its_price_and_one_that_is_not_recognised_the_dearest(device: str, gpu: str) -> None:
    assert paid_per_s(device, GPUS) == price_per_s(gpu) == pytest.approx(GPU[gpu] + CORES_AND_MEMORY)


def test_beforehand_a_call_is_reckoned_at_the_dearest_that_it_may_get() -> None:
    assert dearest_per_s(["L4", "L40S", "A10"]) == price_per_s("L40S")


def test_every_gpu_that_may_be_asked_for_has_a_price() -> None:
    assert set(MODAL_GPUS) <= set(GPU)
