"""The worker's figures on their way to Redis."""

from collections.abc import Iterator

import pytest

from core.figures import Figures, WorkerFigures
from core.job_store import Runner
from core.redis_steps import connect
from tests.conftest import RedisServer, wait_for
from worker.reporter import Reporter

ME = Runner("slot", "boot")


class Counting:
    """An engine that has run one batch more each time it is asked."""

    def __init__(self) -> None:
        self.batches = 0

    def __call__(self) -> WorkerFigures:
        self.batches += 1
        return WorkerFigures({"batches:asr": self.batches}, None)


@pytest.fixture
def figures(redis_server: RedisServer) -> Iterator[Figures]:
    with connect(redis_server.url, timeout_s=1, retries=0) as redis:
        yield Figures(redis)


def test_what_redis_missed_is_in_the_next_report(redis_server: RedisServer, figures: Figures) -> None:
    reporter = Reporter(figures, ME, Counting(), period_s=60)
    reporter.report()
    redis_server.stop()
    reporter.report()
    redis_server.start()
    reporter.report()
    assert figures.snapshot().totals["batches:asr"] == 3


def test_it_reports_by_itself(figures: Figures) -> None:
    reporter = Reporter(figures, ME, Counting(), period_s=0.05)
    reporter.start()
    wait_for(lambda: figures.snapshot().totals.get("batches:asr", 0) > 1, "a second report")
    reporter.stop()
