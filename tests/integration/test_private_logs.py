"""What was said, and what the recording is called, is in no log."""

import shutil
from pathlib import Path

import pytest

from client.api import SpillwayClient
from tests.integration.conftest import SAMPLE
from tools.local_stack import LocalStack

pytestmark = pytest.mark.models


def test_no_log_holds_a_recordings_words_its_prompt_or_its_name(stack: LocalStack, client: SpillwayClient, tmp_path: Path) -> None:
    recording = tmp_path / "quarterly-figures.flac"
    shutil.copy(SAMPLE, recording)
    job = client.wait(client.submit(recording, clip_end=12.0, initial_prompt="Wendelgard", metadata={"case": "Oberhuber"}).id)
    said = [text for text in client.transcript(job.id, "txt").splitlines() if text]
    assert said
    logs = "".join(path.read_text() for path in stack.log_dir.glob("*.log"))
    assert job.id in logs
    private = ["quarterly-figures", "Wendelgard", "Oberhuber", *(text.rpartition(": ")[2] for text in said)]
    assert [word for word in private if word in logs] == []
