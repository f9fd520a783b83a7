"""A whole job whose files are in a bucket: the recording goes there, a worker fetches it from there, the transcript is read from there."""

import json
from pathlib import Path

import pytest

from client.api import SpillwayClient
from tests.gcs_server import CloudServer
from tests.integration.conftest import SAMPLE
from tools.local_stack import LocalStack, Plan

pytestmark = pytest.mark.models


def test_a_job_whose_files_are_in_a_bucket(cloud: CloudServer, bucket: str, tmp_path: Path, model_dir: Path) -> None:
    settings = {
        "SPILLWAY_ASR_MODEL": "faster-whisper-tiny.en",
        "SPILLWAY_MODEL_DIR": str(model_dir),
        "SPILLWAY_FILE_STORE": f"gs://{bucket}/spillway",
    }
    with LocalStack(Plan(tmp_path, settings, port=0)) as stack, SpillwayClient(stack.url) as client:
        job = client.wait(client.submit(SAMPLE, clip_end=8.0).id)
        assert job.state == "succeeded", job.error
        of_the_job = [name for name in cloud.names(bucket) if job.id in name]
        assert of_the_job[0] == f"spillway/jobs/{job.id}/attempts/1/transcript.json"
        assert cloud.content(bucket, f"spillway/jobs/{job.id}/input") == SAMPLE.read_bytes()
        assert json.loads(client.transcript(job.id))["segments"]
        assert list((tmp_path / "files").glob("partial/*")) == []
        client.delete(job.id)
        assert [name for name in cloud.names(bucket) if job.id in name] == []
