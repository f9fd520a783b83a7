from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.box import Box
from tests.worker.hub import Hub


@pytest.fixture
def box(redis_url: str, tmp_path: Path, ffmpeg: str) -> Iterator[Box]:
    opened = Box(redis_url, tmp_path / "files", ffmpeg)
    yield opened
    opened.close()


@pytest.fixture
def hub() -> Iterator[Hub]:
    served = Hub()
    yield served
    served.close()
