from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RedisServer
from tests.gcs_server import bucket, cloud, cloud_session, connect_storage, key, private_key  # noqa: F401 - fixtures
from tests.service.box import Box, RunningService, running_service


@pytest.fixture
def box(redis_url: str, tmp_path: Path, ffmpeg: str) -> Iterator[Box]:
    made = Box(redis_url, tmp_path, ffmpeg)
    yield made
    made.close()


@pytest.fixture
def guarded(redis_url: str, tmp_path: Path, ffmpeg: str) -> Iterator[Box]:
    """A box that wants API keys."""
    made = Box(redis_url, tmp_path, ffmpeg, access="keys")
    yield made
    made.close()


@pytest.fixture(scope="module")
def service(redis_session: RedisServer, tmp_path_factory: pytest.TempPathFactory, ffmpeg: str) -> Iterator[RunningService]:
    """One for the tests of a module: it takes seconds to start."""
    few = {"SPILLWAY_SERVICE_THREADS": "8", "SPILLWAY_EVENT_STREAMS_MAX": "3"}
    with running_service(redis_session.url, tmp_path_factory.mktemp("service"), ffmpeg, **few) as running:
        yield running
