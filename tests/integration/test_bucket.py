"""Whole jobs whose files are in a bucket: the recording goes there, a worker fetches it from there, the transcript is read from there."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.api import SpillwayClient
from tests.gcs_server import CloudServer
from tests.integration.conftest import SAMPLE
from tools.local_stack import LocalStack, Plan

pytestmark = pytest.mark.models


@pytest.fixture
def client(cloud: CloudServer, bucket: str, tmp_path: Path, model_dir: Path) -> Iterator[SpillwayClient]:  # noqa: ARG001 - the client of Google asks the environment
    settings = {
        "SPILLWAY_ASR_MODEL": "faster-whisper-tiny.en",
        "SPILLWAY_MODEL_DIR": str(model_dir),
        "SPILLWAY_FILE_STORE": f"gs://{bucket}/spillway",
    }
    with LocalStack(Plan(tmp_path, settings, port=0)) as stack, SpillwayClient(stack.url) as opened:
        yield opened


def test_files_and_sources_in_a_bucket(client: SpillwayClient, cloud: CloudServer, bucket: str, tmp_path: Path) -> None:
    cloud.put(bucket, "talks/service desk.flac", SAMPLE.read_bytes())
    sent = client.submit(SAMPLE, clip_end=8.0)
    named = client.submit(source=f"gs://{bucket}/talks/service desk.flac", clip_end=8.0)
    assert (named.stage, named.filename) == ("fetching", "service desk.flac")
    for job, recording in ((client.wait(sent.id), "input"), (client.wait(named.id), "fetches/1/input")):
        assert job.state == "succeeded", job.error
        assert json.loads(client.transcript(job.id))["segments"]
        assert cloud.content(bucket, f"spillway/jobs/{job.id}/{recording}") == SAMPLE.read_bytes()
        assert f"spillway/jobs/{job.id}/transcript-1.json" in cloud.names(bucket)
        client.delete(job.id)
    assert [name for name in cloud.names(bucket) if "/jobs/" in name] == []
    assert cloud.content(bucket, "talks/service desk.flac") == SAMPLE.read_bytes()
    assert list((tmp_path / "files").glob("partial/*")) == []
