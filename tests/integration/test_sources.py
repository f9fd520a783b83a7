"""A recording that is somewhere else, from its URL to the transcript, through all processes."""

import json

import pytest

from client.api import SpillwayClient
from tests.dispatcher.source_server import SourceServer, file
from tests.integration.conftest import SAMPLE

pytestmark = pytest.mark.models


def test_a_source_is_fetched_and_transcribed(client: SpillwayClient) -> None:
    with SourceServer({"/dialogue.flac": file(SAMPLE.read_bytes())}) as server:
        job = client.submit(source=server.url("/dialogue.flac?signature=secret"), clip_end=9, diarize=False)
        done = client.wait(job.id)
        assert done.source == server.url("/dialogue.flac")
    assert (done.state, done.filename) == ("succeeded", "dialogue.flac")
    assert "service desk" in " ".join(segment["text"] for segment in json.loads(client.transcript(job.id))["segments"])
    assert job.stage == "fetching"
    assert done.duration_s == pytest.approx(34.3, abs=0.1)
    assert len(server.asked) == 1


def test_a_source_that_may_not_be_reached_fails_with_its_reason(client: SpillwayClient) -> None:
    done = client.wait(client.submit(source="http://169.254.169.254/latest/meta-data/").id)
    assert done.error is not None
    assert (done.state, done.error.code) == ("failed", "source_refused")
