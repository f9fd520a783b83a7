import pytest

from worker.cuda_start import TRIES, cuda_fault


@pytest.mark.parametrize(("statuses", "is_fit"), [([0], True), ([999, 999, 0], True), ([999] * TRIES, False)])
def test_cuda_that_starts_at_a_later_try_is_no_fault(statuses: list[int], is_fit: bool) -> None:
    answers = iter(statuses)
    assert (cuda_fault(lambda: next(answers), pause_s=0) is None) is is_fit
    assert next(answers, None) is None  # as many tries as it took


def test_a_machine_without_a_driver_says_so() -> None:
    assert "libcuda" in (cuda_fault() or "libcuda is here")
