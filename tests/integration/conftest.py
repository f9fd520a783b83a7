"""The whole of Spillway as real processes on loopback, with the small model, shared by every test here."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.api import SpillwayClient
from tests.conftest import ROOT
from tests.gcs_server import bucket, cloud, cloud_session  # noqa: F401 - fixtures
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
    }
    with LocalStack(Plan(tmp_path_factory.mktemp("stack"), settings, port=0)) as running:
        yield running


@pytest.fixture
def client(stack: LocalStack) -> Iterator[SpillwayClient]:
    with SpillwayClient(stack.url) as opened:
        yield opened


@pytest.fixture(scope="session")
def reference() -> dict[str, Any]:
    """The sample's own words, onsets and turns."""
    return dict(json.loads(SAMPLE.with_suffix(".json").read_text()))
