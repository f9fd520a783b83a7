"""What is done on the side, and may hang or fail."""

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from core.errors import StorageUnavailable
from dispatcher.burst.errands import THREADS, Errands

HANGS = """
import threading
from dispatcher.burst.errands import THREADS, Errands
errands, begun = Errands(), threading.Semaphore(0)
for _ in range(THREADS):
    errands.send(lambda: (begun.release(), threading.Event().wait())[1], "never")
    begun.acquire()
errands.close()
"""


@pytest.fixture
def errands() -> Iterator[Errands]:
    made = Errands()
    yield made
    made.close()


def test_a_file_store_that_hangs_does_not_hold_the_end_of_the_process() -> None:
    subprocess.run([sys.executable, "-c", HANGS], timeout=30, check=True)


@pytest.mark.parametrize("error", [StorageUnavailable("the bucket does not answer"), ValueError("not a key")])
def test_an_errand_that_fails_says_so_and_holds_up_no_other(errands: Errands, error: Exception) -> None:
    done = threading.Event()

    def fail() -> None:
        raise error

    with capture_logs() as logs:
        for _ in range(THREADS):
            errands.send(fail, "result not deleted")
        errands.send(done.set, "never")
        assert done.wait(10)
    assert [(line["event"], line["reason"]) for line in logs][:1] == [("result not deleted", str(error))]
