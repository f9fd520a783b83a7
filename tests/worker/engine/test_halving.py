"""Batches that shrink, with models that are plain functions."""

from itertools import chain

import pytest
import torch

from core.errors import OutOfMemory
from worker.engine.halving import Halving

pytestmark = pytest.mark.models

# As torch, cuBLAS and cuDNN below torch and CTranslate2, torch on a CPU, and pyannote raise it.
ERRORS = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 79.11 GiB total capacity)"),
    RuntimeError("CUDA failed with error out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:75] err == 0. DefaultCPUAllocator: can't allocate memory"),
    MemoryError("batch_size (8) is probably too large."),
]


class SmallMemory:
    def __init__(self, room: int, error: Exception) -> None:
        self.room, self.error = room, error
        self.sizes: list[int] = []

    def __call__(self, part: slice) -> list[int]:
        self.sizes.append(part.stop - part.start)
        if self.sizes[-1] > self.room:
            raise self.error
        return list(range(part.start, part.stop))


@pytest.mark.parametrize("error", ERRORS, ids=[type(error).__name__ + str(error)[:24] for error in ERRORS])
def test_the_batch_halves_nothing_is_lost_and_the_next_begins_with_what_worked(error: Exception) -> None:
    model, released = SmallMemory(3, error), [0]

    def release() -> None:
        released[0] += 1

    halving = Halving("vad", 8, release_memory=release)
    assert list(chain.from_iterable(halving.run(10, model))) == list(range(10))
    assert model.sizes == [8, 4, 2, 2, 2, 2, 2]
    model.sizes.clear()
    assert list(chain.from_iterable(halving.run(3, model))) == [0, 1, 2]
    assert (model.sizes, halving.batch_size, released) == ([2, 1], 2, [2])
    assert halving.tally.counts()["out_of_memory:vad"] == 2


def test_one_that_does_not_fit_alone_says_so() -> None:
    with pytest.raises(OutOfMemory, match="vad: the device's memory does not hold a single item"):
        Halving("vad", 8).run(4, SmallMemory(0, ERRORS[0]))


def test_other_errors_are_not_taken_for_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="illegal memory access"):
        Halving("vad", 8).run(4, SmallMemory(0, RuntimeError("CUDA error: an illegal memory access was encountered")))
