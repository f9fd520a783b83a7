from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dispatcher.burst.box import BurstBox
from tests.modal_server import ModalServer
from tests.worker.box import Box


@pytest.fixture
def modal_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModalServer]:
    with ModalServer() as running:
        monkeypatch.setenv("MODAL_SERVER_URL", running.url)
        yield running


@pytest.fixture
def box(redis_url: str, tmp_path: Path, ffmpeg: str, modal_server: ModalServer) -> Iterator[BurstBox]:
    worker = Box(redis_url, tmp_path / "files", ffmpeg)
    opened = BurstBox(worker, tmp_path / "files", modal_server)
    yield opened
    opened.close()
    worker.close()
