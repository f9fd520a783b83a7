from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.box import Box


@pytest.fixture
def box(redis_url: str, tmp_path: Path, ffmpeg: str) -> Iterator[Box]:
    opened = Box(redis_url, tmp_path / "files", ffmpeg)
    yield opened
    opened.close()
