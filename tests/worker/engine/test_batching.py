"""The batcher, with models that are plain functions."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from core.errors import EngineFailed, OutOfMemory
from worker.engine.batching import Batcher, is_out_of_memory

CTRANSLATE2_OUT_OF_MEMORY = "CUDA failed with error out of memory"
TORCH_OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 79.11 GiB total capacity; 76.01 GiB already allocated)"

Forward = Callable[[list[int]], list[int]]
Make = Callable[..., Batcher[int, int]]


class Gate:
    """A model that waits until it is let go, so that a test decides what queues up behind the first batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started = threading.Event()
        self.open = threading.Event()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.started.set()
        assert self.open.wait(10)
        return [item * 2 for item in items]


class SmallMemory:
    """A model that holds `room` items and fails as CTranslate2 or torch do beyond."""

    def __init__(self, room: int, text: str) -> None:
        self.room, self.text = room, text
        self.sizes: list[int] = []

    def __call__(self, items: list[int]) -> list[int]:
        self.sizes.append(len(items))
        if len(items) > self.room:
            raise RuntimeError(self.text)
        return [item * 2 for item in items]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Batcher[int, int]] = []

    def build(forward: Forward, **options: object) -> Batcher[int, int]:
        made.append(Batcher("asr", forward, **{"batch_size": 4, **options}))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for batcher in made:
        batcher.close()


def behind_the_gate(batcher: Batcher[int, int], gate: Gate) -> Future[int]:
    """Occupies the model: what is submitted next waits."""
    first = batcher.submit(-1, job="first")
    assert gate.started.wait(10)
    return first


def results(futures: list[Future[int]]) -> list[int]:
    return [future.result(timeout=10) for future in futures]


def test_items_that_wait_share_full_batches(make: Make) -> None:
    gate = Gate()
    batcher = make(gate)
    behind_the_gate(batcher, gate)
    futures = [batcher.submit(item, job="a") for item in range(6)]
    gate.open.set()
    assert results(futures) == [0, 2, 4, 6, 8, 10]
    assert gate.batches == [[-1], [0, 1, 2, 3], [4, 5]]


def test_batches_are_counted_with_what_would_have_fitted(make: Make) -> None:
    gate = Gate()
    batcher = make(gate)
    behind_the_gate(batcher, gate)
    futures = [batcher.submit(item, job="a") for item in range(6)]
    gate.open.set()
    results(futures)
    batcher.close()  # the last batch is counted once its results are out
    counts = batcher.tally.counts()
    assert counts.pop("batch_ms:asr") >= 0
    assert counts == {"batches:asr": 3, "batch_windows:asr": 7, "batch_room:asr": 12, "out_of_memory:asr": 0}


def test_a_batch_that_did_not_fit_is_counted_as_that_alone(make: Make) -> None:
    batcher = make(SmallMemory(2, TORCH_OUT_OF_MEMORY), gather_delay_s=5)
    with batcher.feeding():
        results([batcher.submit(item, job="a") for item in range(4)])
    batcher.close()
    counts = batcher.tally.counts()
    assert (counts["out_of_memory:asr"], counts["batches:asr"], counts["batch_windows:asr"], counts["batch_room:asr"]) == (1, 2, 4, 4)


def test_a_short_job_does_not_wait_for_a_long_one(make: Make) -> None:
    gate = Gate()
    batcher = make(gate)
    behind_the_gate(batcher, gate)
    long = [batcher.submit(item, job="long") for item in range(100)]
    short = [batcher.submit(item, job="short") for item in (1000, 1001)]
    gate.open.set()
    assert results(short) == [2000, 2002]
    assert gate.batches[1] == [0, 1000, 1, 1001]
    results(long)


def test_jobs_that_found_no_room_come_first_in_the_next_batch(make: Make) -> None:
    gate = Gate()
    batcher = make(gate, batch_size=2)
    behind_the_gate(batcher, gate)
    futures = [batcher.submit(10 * job + item, job=str(job)) for job in range(3) for item in range(2)]
    gate.open.set()
    results(futures)
    assert gate.batches[1:] == [[0, 10], [20, 1], [11, 21]]


def test_only_items_of_the_same_key_share_a_batch(make: Make) -> None:
    gate = Gate()
    batcher = make(gate, key=lambda item: item % 2)
    behind_the_gate(batcher, gate)
    futures = [batcher.submit(item, job=str(item % 3)) for item in range(8)]
    gate.open.set()
    results(futures)
    assert all(len({item % 2 for item in batch}) == 1 for batch in gate.batches)
    assert len(gate.batches) == 3


def test_a_batch_waits_for_more_while_somebody_feeds(make: Make) -> None:
    sizes: list[int] = []
    batcher = make(lambda items: [sizes.append(len(items)) or item for item in items], gather_delay_s=5)  # type: ignore[func-returns-value]
    with batcher.feeding():
        futures = [batcher.submit(item, job="a") for item in range(2)]
        time.sleep(0.05)
        futures += [batcher.submit(item, job="a") for item in range(2)]
        results(futures)
    assert sizes == [4, 4, 4, 4]


def test_a_batch_does_not_wait_when_nothing_more_can_come(make: Make) -> None:
    batcher = make(lambda items: items, gather_delay_s=60)
    assert batcher.submit(1, job="a").result(timeout=5) == 1


def test_a_batch_waits_no_longer_than_the_gather_delay(make: Make) -> None:
    batcher = make(lambda items: items, gather_delay_s=0.05)
    with batcher.feeding():
        assert batcher.submit(1, job="a").result(timeout=5) == 1


@pytest.mark.parametrize("text", [CTRANSLATE2_OUT_OF_MEMORY, TORCH_OUT_OF_MEMORY, "cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED"])
def test_out_of_memory_halves_the_batch_for_good_and_loses_nothing(make: Make, text: str) -> None:
    model, gate = SmallMemory(room=3, text=text), Gate()
    released: list[bool] = []
    batcher = make(lambda items: gate(items) if items == [-1] else model(items), batch_size=8, release_memory=lambda: released.append(True))
    behind_the_gate(batcher, gate)
    futures = [batcher.submit(item, job="a") for item in range(8)]
    gate.open.set()
    assert results(futures) == [item * 2 for item in range(8)]
    assert model.sizes == [8, 4, 2, 2, 2, 2]
    assert batcher.batch_size == 2
    assert released == [True, True]


def test_an_item_that_does_not_fit_alone_fails_alone(make: Make) -> None:
    def forward(items: list[int]) -> list[int]:
        if 2 in items:
            raise RuntimeError(CTRANSLATE2_OUT_OF_MEMORY)
        return items

    gate = Gate()
    batcher = make(lambda items: gate(items) if items == [-1] else forward(items))
    behind_the_gate(batcher, gate)
    futures = [batcher.submit(item, job="a") for item in range(4)]
    gate.open.set()
    with pytest.raises(OutOfMemory) as raised:
        futures[2].result(timeout=10)
    assert str(raised.value.__cause__) == CTRANSLATE2_OUT_OF_MEMORY
    assert results([futures[0], futures[1], futures[3]]) == [0, 1, 3]


def test_an_error_fails_the_items_of_its_batch_only(make: Make) -> None:
    def forward(items: list[int]) -> list[int]:
        if 13 in items:
            raise ZeroDivisionError
        return items

    batcher = make(forward, key=lambda item: item)
    bad, good = batcher.submit(13, job="a"), batcher.submit(1, job="a")
    with pytest.raises(ZeroDivisionError):
        bad.result(timeout=10)
    assert good.result(timeout=10) == 1


def test_a_model_that_loses_items_is_an_error(make: Make) -> None:
    batcher = make(lambda items: items[1:])
    with pytest.raises(EngineFailed):
        batcher.submit(1, job="a").result(timeout=10)


def test_a_dropped_job_leaves_the_queue_and_the_others_do_not_notice(make: Make) -> None:
    gate = Gate()
    batcher = make(gate)
    running = behind_the_gate(batcher, gate)
    dropped = [batcher.submit(item, job="cancelled") for item in range(10)]
    kept = batcher.submit(7, job="kept")
    batcher.drop("cancelled")
    batcher.drop("first")  # runs already
    gate.open.set()
    assert results([running, kept]) == [-2, 14]
    assert all(future.cancelled() for future in dropped)
    assert gate.batches == [[-1], [7]]


def test_closing_ends_what_runs_and_fails_what_waits(make: Make) -> None:
    gate = Gate()
    batcher = make(gate)
    running = behind_the_gate(batcher, gate)
    waiting = batcher.submit(1, job="a")
    closing = threading.Thread(target=batcher.close)
    closing.start()
    time.sleep(0.05)  # close() has said so before the model is let go
    gate.open.set()
    closing.join(10)
    assert running.result(timeout=10) == -2
    with pytest.raises(EngineFailed):
        waiting.result(timeout=10)
    with pytest.raises(EngineFailed):
        batcher.submit(2, job="a")


def test_many_threads_each_get_their_own_results(make: Make) -> None:
    batcher = make(lambda items: [item * 2 for item in items], batch_size=16, key=lambda item: item % 3)

    def job(number: int) -> list[int]:
        with batcher.feeding():
            return results([batcher.submit(number * 1000 + item, job=str(number)) for item in range(50)])

    with ThreadPoolExecutor(16) as threads:
        for number, got in enumerate(threads.map(job, range(16))):
            assert got == [2 * (number * 1000 + item) for item in range(50)]


def test_other_errors_are_not_taken_for_lack_of_memory() -> None:
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("CUDA failed with error an illegal memory access was encountered"))
    assert not is_out_of_memory(ValueError("out of memory"))
