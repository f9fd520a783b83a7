"""Bundles through Modal's own client to the method of modal_deploy.py, which runs for real: the files that the real `modal deploy` sent, in
a process of their own, with the small model."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import modal
import pytest

from client.api import SpillwayClient
from core.burst import Bundle, BundleJob, Outcome, Reply
from core.job import JobOptions
from core.media import Ffmpeg
from core.transcript import Transcript
from tests.conftest import ROOT
from tests.gcs_server import CloudServer
from tests.integration.conftest import LIBRIVOX
from tests.modal_box import ContainerProcess, lay_out
from tests.modal_deployment import DeployableServer, checkout_of, deployed

pytestmark = pytest.mark.models
SPEECH = sorted(LIBRIVOX.glob("*.flac"))[:2]
OPTIONS = JobOptions(diarize=False)


@pytest.fixture(scope="session")
def modal_server(tmp_path_factory: pytest.TempPathFactory, model_dir: Path, cloud_session: CloudServer) -> Iterator[DeployableServer]:
    folder = tmp_path_factory.mktemp("modal")
    here = {"SPILLWAY_DEVICE": "cpu", "SPILLWAY_MODEL_DIR": str(model_dir), "SPILLWAY_GPU_STACK": "none"}
    here |= {"SPILLWAY_FILE_STORE_DIR": str(folder / "files"), "STORAGE_EMULATOR_HOST": cloud_session.url}
    with DeployableServer() as server:
        deployment = deployed(server, checkout_of(folder / "checkout"), SPILLWAY_ASR_MODEL="faster-whisper-tiny.en")
        container = ContainerProcess(folder / "app", lay_out(deployment, folder / "app") | here)
        server.remote = container.run
        yield server
        container.close()


@pytest.fixture
def transcriber(modal_server: DeployableServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("MODAL_SERVER_URL", modal_server.url)
    with modal.Client.from_credentials("ak-test", "as-test") as client:
        yield modal.Cls.from_name("spillway", "Transcriber", client=client)()


def job(number: int, recording: Path, ffmpeg: str, **more: Any) -> BundleJob:
    duration_s = Ffmpeg(ffmpeg).probe(recording).duration_s
    return BundleJob(id=f"job-{number}", attempt=3, options=OPTIONS, duration_s=duration_s, **more)


def test_a_bundle_gives_a_receipt_for_each_job_and_the_words_of_the_box(
    transcriber: Any, client: SpillwayClient, ffmpeg: str
) -> None:
    sound = Ffmpeg(ffmpeg)
    jobs = [job(number, path, ffmpeg) for number, path in enumerate(SPEECH)]
    broken = BundleJob(id="job-broken", attempt=1, options=OPTIONS, duration_s=5.0)
    recordings = {one.id: sound.flac(path) for one, path in zip(jobs, SPEECH, strict=True)} | {broken.id: b"no recording"}
    bundle = Bundle(deadline_s=120, jobs=(*jobs, broken))
    reply = Reply.read(transcriber.run.spawn(bundle.plain(), recordings).get(timeout=150))
    assert [receipt.outcome for receipt in reply.receipts] == [Outcome.SUCCEEDED, Outcome.SUCCEEDED, Outcome.FAILED], reply
    assert reply.receipts[2].error is not None
    local = [client.submit(path, diarize=False) for path in SPEECH]
    unlike = client.wait(client.submit(ROOT / "Makefile").id) if False else None
    assert unlike is None
    for receipt, path, mine in zip(reply.receipts, SPEECH, local, strict=False):
        client.wait(mine.id)
        here = Transcript.model_validate_json(client.transcript(mine.id, "json"))
        there = Transcript.model_validate_json(receipt.transcript or "")
        assert there.segments == here.segments
        assert there.text
        assert (there.run.runner, there.run.attempt, here.run.runner) == ("modal", 3, "local")
        assert there.models == here.models
        assert receipt.sha256 == hashlib.sha256((receipt.transcript or "").encode()).hexdigest()
        assert {"decode", "asr"} <= set(receipt.stages_s)
    assert reply.container is not None
    assert reply.container.device == "cpu"
    assert reply.container.cold_start_s > 0
    assert sum(receipt.gpu_s for receipt in reply.receipts) == pytest.approx(reply.seconds, abs=0.1)
