"""Bundles through Modal's own client to the method of modal_deploy.py, which runs for real: the files that the real `modal deploy` sent, in
a process of their own, with the small model."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import modal
import pytest

from client.api import SpillwayClient
from core.burst import REVOKED, Bundle, BundleJob, Outcome, Reply
from core.file_store import FileStore, claim_key, input_key, product_key, result_key
from core.job import JobOptions
from core.media import Ffmpeg
from core.settings import Settings
from core.storage import open_file_store
from core.transcript import Transcript
from tests.gcs_server import CloudServer
from tests.integration.conftest import LIBRIVOX
from tests.modal_box import ContainerProcess, lay_out
from tests.modal_deployment import DeployableServer
from tests.modal_server import Call, Conduct

pytestmark = pytest.mark.models
SPEECH = sorted(LIBRIVOX.glob("*.flac"))[:2]
OPTIONS = JobOptions(diarize=False)


@pytest.fixture
def transcriber(modal_server: DeployableServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("MODAL_SERVER_URL", modal_server.url)
    with modal.Client.from_credentials("ak-test", "as-test") as client:
        yield modal.Cls.from_name("spillway", "Transcriber", client=client)()


@pytest.fixture
def files(cloud: CloudServer, bucket: str, tmp_path: Path) -> FileStore:  # noqa: ARG001 - the client of Google asks the environment
    """The box's own way to the bucket."""
    return open_file_store(Settings(file_store=f"gs://{bucket}/spillway", file_store_dir=tmp_path))


def job(name: str, recording: Path, ffmpeg: str, **more: Any) -> BundleJob:
    duration_s = Ffmpeg(ffmpeg).probe(recording).duration_s
    return BundleJob(id=name, attempt=3, options=OPTIONS, duration_s=duration_s, **more)


def in_bucket(files: FileStore, bucket: str, name: str, ffmpeg: str) -> Bundle:
    """One short job whose recording is there."""
    stored = files.write(input_key(name), SPEECH[0].read_bytes())
    recording = job(name, SPEECH[0], ffmpeg, input_key=stored.key, input_sha256=stored.sha256)
    return Bundle(file_store=f"gs://{bucket}/spillway", deadline_s=120, jobs=(recording,))


def run(transcriber: Any, bundle: Bundle, recordings: dict[str, bytes] | None = None) -> Reply:
    return Reply.read(transcriber.run.spawn(bundle.plain(), recordings or {}).get(timeout=150))


def test_a_bundle_gives_a_receipt_for_each_job_and_the_words_of_the_box(transcriber: Any, client: SpillwayClient, ffmpeg: str) -> None:
    sound = Ffmpeg(ffmpeg)
    jobs = [job(f"job-{number}", path, ffmpeg) for number, path in enumerate(SPEECH)]
    broken = BundleJob(id="job-broken", attempt=1, options=OPTIONS, duration_s=5.0)
    recordings = {one.id: sound.flac(path) for one, path in zip(jobs, SPEECH, strict=True)} | {broken.id: b"no recording"}
    bundle = Bundle(deadline_s=120, jobs=(*jobs, broken))
    reply = run(transcriber, bundle, recordings)
    assert [receipt.outcome for receipt in reply.receipts] == [Outcome.SUCCEEDED, Outcome.SUCCEEDED, Outcome.FAILED], reply
    assert reply.receipts[2].error is not None
    assert reply.receipts[2].error.code == "invalid_media"
    local = [client.submit(path, diarize=False) for path in SPEECH]
    for receipt, mine in zip(reply.receipts, local, strict=False):
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


def test_with_a_bucket_the_result_is_there_under_the_attempts_name(
    transcriber: Any, modal_server: DeployableServer, files: FileStore, bucket: str, ffmpeg: str
) -> None:
    (receipt,) = run(transcriber, in_bucket(files, bucket, "job-b", ffmpeg)).receipts
    assert (receipt.outcome, receipt.transcript, receipt.result_key) == (Outcome.SUCCEEDED, None, result_key("job-b", 3))
    content = files.read(result_key("job-b", 3))
    assert Transcript.model_validate_json(content).run.runner == "modal"
    assert receipt.sha256 == hashlib.sha256(content).hexdigest()
    assert files.read(claim_key("job-b", 3)).decode() == list(modal_server.calls)[-1]
    assert receipt.products == {"asr": product_key("job-b", 3, "asr")}


def test_a_call_that_is_preempted_and_run_again_gives_the_first_runs_result(
    transcriber: Any, modal_server: DeployableServer, files: FileStore, bucket: str, ffmpeg: str
) -> None:
    modal_server.conducts = [Conduct(runs=2)]
    bundle = in_bucket(files, bucket, "job-p", ffmpeg)
    (receipt,) = run(transcriber, bundle).receipts
    assert receipt.outcome == Outcome.SUCCEEDED
    assert receipt.sha256 == hashlib.sha256(files.read(result_key("job-p", 3))).hexdigest()
    assert receipt.products == {}  # the second run found the result, and did nothing


def test_an_attempt_that_is_another_calls_or_was_taken_back_is_not_run(
    transcriber: Any, files: FileStore, bucket: str, ffmpeg: str
) -> None:
    bundle = in_bucket(files, bucket, "job-o", ffmpeg)
    files.write(claim_key("job-o", 3), REVOKED)
    (receipt,) = run(transcriber, bundle).receipts
    assert (receipt.outcome, receipt.seconds < 5) == (Outcome.LOST, True)
    with pytest.raises(FileNotFoundError):
        files.read(result_key("job-o", 3))


def test_a_container_whose_secret_is_wrong_answers_and_says_so(modal_server: DeployableServer, tmp_path: Path) -> None:
    """Modal would start one that ends at its import again and again."""
    variables = lay_out(modal_server.deployment, tmp_path) | {"SPILLWAY_GCS_CREDENTIALS": "{}"}
    container = ContainerProcess(tmp_path, variables)
    bundle = Bundle(deadline_s=60, jobs=(BundleJob(id="a", attempt=1, options=OPTIONS, duration_s=1.0),))
    said = Reply.read(container.run(Call("fc-1", "Transcriber.run", (bundle.plain(), {}), {}, Conduct())))
    container.close()
    assert said.refusal is not None
    assert "SPILLWAY_GCS_CREDENTIALS is wrong" in said.refusal.message
    assert not container.wants_more


def test_a_dispatcher_of_another_version_is_told_what_to_do(transcriber: Any) -> None:
    said = Reply.read(transcriber.run.spawn({"contract": 0}, {}).get(timeout=60))
    assert said.refusal is not None
    assert said.refusal.code == "contract_mismatch"
    assert "modal deploy modal_deploy.py" in said.refusal.message
