import gc
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.file_store import FileStore
from core.settings import Settings
from core.storage import open_file_store
from tests.dispatcher.burst.box import BurstBox, stored
from tests.gcs_server import CloudServer, bucket, cloud, cloud_session  # noqa: F401 - fixtures
from tests.modal_server import ModalServer
from tests.worker.box import Box


@pytest.fixture
def modal_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModalServer]:
    with ModalServer() as running:
        monkeypatch.setenv("MODAL_SERVER_URL", running.url)
        yield running
    # A client whose peer said nothing, or went, leaves its connections to the collector.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def box(redis_url: str, tmp_path: Path, ffmpeg: str, modal_server: ModalServer) -> Iterator[BurstBox]:
    worker = Box(redis_url, tmp_path / "files", ffmpeg)
    opened = BurstBox(worker, tmp_path / "files", modal_server)
    yield opened
    opened.close()
    opened.check()
    worker.close()


@pytest.fixture
def bucket_box(box: BurstBox, cloud: CloudServer, bucket: str, tmp_path: Path) -> BurstBox:  # noqa: ARG001, F811 - asked for by the client
    """Whose files are in a bucket, which the container reaches too."""
    box.bucket = f"gs://{bucket}/spillway"
    box.box.files = files_in(box.bucket, tmp_path)
    box.bridge = box.another()
    return box


@pytest.fixture(params=["volume", "bucket"])
def either(request: pytest.FixtureRequest) -> BurstBox:
    if request.param == "volume":
        return request.getfixturevalue("box")  # type: ignore[no-any-return]
    box: BurstBox = request.getfixturevalue("bucket_box")
    box.says = lambda job: stored(box, job)
    return box


def files_in(address: str, folder: Path) -> FileStore:
    return open_file_store(Settings(file_store=address, file_store_dir=folder / "scratch"))
