import threading
from collections.abc import Iterator

import pytest

from client.api import SpillwayClient
from core.job_store import JobStore
from core.local_file_store import LocalFileStore
from core.redis_steps import connect
from tests.conftest import RedisServer
from tests.service.box import RunningService, run_pending, running_service


@pytest.fixture(scope="session")
def service(redis_session: RedisServer, tmp_path_factory: pytest.TempPathFactory, ffmpeg: str) -> Iterator[RunningService]:
    """One for all tests of the client: it takes seconds to start. Two streams at most, so that refusing them is easy."""
    few = {"SPILLWAY_SERVICE_THREADS": "8", "SPILLWAY_EVENT_STREAMS_MAX": "2"}
    few["SPILLWAY_WEBHOOK_SECRET"] = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    with running_service(redis_session.url, tmp_path_factory.mktemp("service"), ffmpeg, **few) as running:
        yield running


@pytest.fixture
def jobs(redis_url: str) -> Iterator[JobStore]:
    redis = connect(redis_url)
    yield JobStore(redis)
    redis.close()


@pytest.fixture
def runner(service: RunningService, jobs: JobStore) -> Iterator[None]:
    """Ends every job with a canned transcript, as soon as it waits."""
    files, stopped = LocalFileStore(service.folder), threading.Event()

    def run() -> None:
        while not stopped.wait(0.05):
            run_pending(jobs, files)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    stopped.set()
    thread.join()


@pytest.fixture
def client(service: RunningService, redis_url: str) -> Iterator[SpillwayClient]:  # noqa: ARG001 - an empty database
    with SpillwayClient(service.url) as client:
        yield client
