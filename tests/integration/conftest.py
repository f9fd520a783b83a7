"""The whole of Spillway as real processes on loopback, with the small model, shared by every test here."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.api import SpillwayClient
from tests.conftest import ROOT
from tests.gcs_server import CloudServer, bucket, cloud, cloud_session  # noqa: F401 - fixtures
from tests.modal_box import ContainerProcess, lay_out
from tests.modal_deployment import DeployableServer, checkout_of, deployed
from tools.local_stack import LocalStack, Plan

LIBRIVOX = ROOT / "tests" / "data" / "librivox"
SAMPLE = ROOT / "samples" / "dialogue.flac"


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> Iterator[LocalStack]:
    settings = {
        "SPILLWAY_ASR_MODEL": "faster-whisper-tiny.en",
        "SPILLWAY_MODEL_DIR": str(model_dir),
        "SPILLWAY_DEVICE": "cpu",
        "SPILLWAY_FETCH_ALLOW": "127.0.0.1/32",  # where the tests' own servers are
        "SPILLWAY_HEARTBEAT_S": "2",  # so that the worker's figures come soon
    }
    with LocalStack(Plan(tmp_path_factory.mktemp("stack"), settings, port=0)) as running:
        yield running


@pytest.fixture
def client(stack: LocalStack) -> Iterator[SpillwayClient]:
    with SpillwayClient(stack.url) as opened:
        yield opened


@pytest.fixture(scope="session")
def modal_server(
    tmp_path_factory: pytest.TempPathFactory,
    model_dir: Path,
    ffmpeg: str,
    cloud_session: CloudServer,  # noqa: F811 - the fixture
) -> Iterator[DeployableServer]:
    """Modal with this checkout deployed, and a container that runs it for real."""
    folder = tmp_path_factory.mktemp("modal")
    here = {"SPILLWAY_DEVICE": "cpu", "SPILLWAY_GPU_STACK": "none", "SPILLWAY_MODEL_DIR": str(model_dir), "SPILLWAY_FFMPEG": ffmpeg}
    here |= {"SPILLWAY_FILE_STORE_DIR": str(folder / "files"), "STORAGE_EMULATOR_HOST": cloud_session.url}
    with DeployableServer() as server:
        deployment = deployed(server, checkout_of(folder / "checkout"), SPILLWAY_ASR_MODEL="faster-whisper-tiny.en")
        container = ContainerProcess(folder / "app", lay_out(deployment, folder / "app") | here)
        server.remote = container.run
        yield server
        container.close()


@pytest.fixture(scope="session")
def reference() -> dict[str, Any]:
    """The sample's own words, onsets and turns."""
    return dict(json.loads(SAMPLE.with_suffix(".json").read_text()))
