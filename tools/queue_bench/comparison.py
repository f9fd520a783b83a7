"""What both queues are asked alike."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tools.queue_bench.measured import Journal, Measured, wait_until
from tools.queue_bench.processes import frozen, kill

IN_FLIGHT = 8  # jobs at once in either worker
LEASE_S = 10
PATIENCE_S = 300.0


@dataclass(frozen=True)
class Queue:
    """`submit` sends a job that takes so many seconds beside its decode; `started_at` is by this machine's clock; `worker` lists the
    processes of its worker, the leader first."""

    submit: Callable[[float], str]
    started_at: Callable[[str], float]
    journal: Journal
    worker: Callable[[], Sequence[int]]

    def run(self) -> None:
        job = self.submit(0.0)
        if not wait_until(lambda: job in self.journal.ended(), seconds=PATIENCE_S):
            raise TimeoutError(f"job {job} did not end within {PATIENCE_S:.0f} s")


def compare(queue: Queue, jobs: int) -> Measured:
    measured = Measured()
    first = {queue.submit(0.2) for _ in range(2 * IN_FLIGHT)}  # whatever is made at the first job of each process
    wait_until(lambda: first <= queue.journal.ended(), seconds=PATIENCE_S)
    measured.times_s["submit to start, idle worker"] = [_waited_s(queue) for _ in range(max(5, jobs // 5))]
    begun = time.monotonic()
    with frozen(queue.worker()):
        heap = {queue.submit(0.0) for _ in range(jobs)}
        measured.per_second["submits, one client"] = jobs / (time.monotonic() - begun)
    begun = time.monotonic()
    wait_until(lambda: heap <= queue.journal.ended(), seconds=PATIENCE_S)
    measured.per_second["jobs through the worker"] = len(heap & queue.journal.ended()) / (time.monotonic() - begun)
    return measured


def after_a_kill(queue: Queue, patience_s: float) -> dict[str, str]:
    """kill -9 of a worker amid its jobs; it is started again at once."""
    jobs = {queue.submit(0.5) for _ in range(2 * IN_FLIGHT)}
    wait_until(lambda: queue.journal.has_begun(jobs), seconds=PATIENCE_S)
    kill(queue.worker()[0])
    begun = time.monotonic()
    is_done = wait_until(lambda: jobs <= queue.journal.ended(), seconds=patience_s)
    after = f"{time.monotonic() - begun:.1f} s" if is_done else f"not within {patience_s:.0f} s"
    left = len(jobs - queue.journal.ended())
    return {"kill -9 of the busy worker: jobs left of 16": str(left), "kill -9 of the busy worker: all done after": after}


def _waited_s(queue: Queue) -> float:
    at = time.time()
    job = queue.submit(0.0)
    wait_until(lambda: job in queue.journal.ended(), seconds=PATIENCE_S)
    return queue.started_at(job) - at
