"""The linkage of speaker embeddings beside a beating heart."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from scipy.cluster import hierarchy

from core.errors import JobCancelled, OurError
from tests.conftest import ROOT, wait_for
from worker.engine import linkage as module
from worker.engine.linkage import AT_ONCE, linkage, waiting

DIMENSION = 192  # CAM++'s


def talk(embeddings: int) -> "module.Floats":
    """Six speakers' embeddings, of unit length as pyannote hands them over."""
    random = np.random.default_rng(1)
    voices = random.normal(size=(6, DIMENSION))
    heard = voices[random.integers(0, 6, embeddings)] + 0.6 * random.normal(size=(embeddings, DIMENSION))
    return np.asarray(heard / np.linalg.norm(heard, axis=1, keepdims=True), dtype=np.float32)


@pytest.mark.parametrize("embeddings", [2, AT_ONCE, AT_ONCE + 1])
def test_it_is_scipys_wherever_it_runs(embeddings: int) -> None:
    heard = talk(embeddings)
    assert np.array_equal(linkage(heard, "centroid", "euclidean"), hierarchy.linkage(heard, "centroid", "euclidean"))


def test_four_at_once_leave_this_process_to_its_other_threads() -> None:
    """SciPy in here would hold the GIL for 0.7 s each, and for minutes with recordings of hours."""
    heard, begun = talk(4000), time.process_time()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: linkage(heard, "centroid", "euclidean"), range(4)))
    assert {one.shape for one in found} == {(3999, 4)}
    assert time.process_time() - begun < 0.7


def test_a_job_that_is_cancelled_while_it_waits_stops_and_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.02)
    looks, told_at = iter(range(100)), list[float]()

    def cancelled() -> None:
        if next(looks) > 3:
            told_at.append(time.monotonic())
            raise JobCancelled("job")

    def job() -> None:
        waiting.set(cancelled)
        linkage(talk(8000), "centroid", "euclidean")

    with ThreadPoolExecutor(1) as thread, pytest.raises(JobCancelled):
        thread.submit(job).result()
    assert children() == []
    assert time.monotonic() - told_at[0] < 1.0, "it was waited for"


def test_a_process_that_is_killed_is_an_error_of_this_job_alone() -> None:
    with ThreadPoolExecutor(1) as thread:
        linked = thread.submit(linkage, talk(8000), "centroid", "euclidean")
        wait_for(children, "the process of its own")
        subprocess.run(["kill", "-9", *children()], check=True)
        with pytest.raises(OurError, match="status -9"):
            linked.result()
    assert linkage(talk(AT_ONCE + 1), "centroid", "euclidean").shape == (AT_ONCE, 4)


def children(parent: str = "self") -> list[str]:
    found = list[str]()
    for task in Path(f"/proc/{parent}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ends meanwhile, or a process
            found += filter(_links, (task / "children").read_text().split())
    return found


def _links(pid: str) -> bool:
    return b"worker.engine.linkage" in Path(f"/proc/{pid}/cmdline").read_bytes()


WORKER = """
import numpy
from worker.engine.linkage import linkage
linkage(numpy.random.default_rng(1).normal(size=(8000, 192)), "centroid", "euclidean")
"""


def test_it_ends_with_a_worker_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", WORKER], cwd=ROOT) as worker:
        wait_for(lambda: children(str(worker.pid)), "the process of its own")
        (child,) = children(str(worker.pid))
        # By then it has asked to end with its parent; what it links takes seconds more.
        wait_for(lambda: Path(f"/proc/{child}/oom_score_adj").read_text() == "1000\n", "it to be at work")
        worker.kill()
    wait_for(lambda: has_ended(child), "its end", timeout_s=1)


def has_ended(pid: str) -> bool:
    """Whether or not anybody has heard of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except FileNotFoundError:
        return True


def test_it_does_not_outlive_the_worker() -> None:
    orphan = [sys.executable, "-m", "worker.engine.linkage", "1", "centroid", "euclidean"]
    ended = subprocess.run(orphan, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert "the worker is gone" in ended.stderr
