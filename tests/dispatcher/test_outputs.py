"""From an ended job to its transcript under the prefix that its client named, in a bucket on loopback."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from core.bucket_file_store import BucketFileStore
from core.gcs import CloudStorage, Patience
from core.gs_address import Place
from core.outbox import DeliveryKind, DeliveryState
from core.render import Format, render
from core.transcript import Transcript
from dispatcher.outputs import OutputSender
from tests.conftest import wait_for
from tests.dispatcher.delivery_box import DeliveryBox
from tests.dispatcher.process import running_dispatcher
from tests.gcs_server import CloudServer, Fault, Reply
from tests.service.box import TRANSCRIPT

SHORT = Patience(connect_s=0.5, silence_s=0.5, tries_s=0.5)


@pytest.fixture
def writing(redis_url: str, tmp_path: Path, bucket: str, connect_storage: Callable[..., CloudStorage]) -> Iterator[DeliveryBox]:
    """What our own files would be under in the bucket is `spillway`."""
    made = DeliveryBox(redis_url, tmp_path / "files")
    made.senders[DeliveryKind.OUTPUT] = OutputSender(made.files.read, connect_storage(patience=SHORT), Place(bucket, "spillway"))
    yield made
    made.close()


def owing(box: DeliveryBox, target: str, *, has_transcript: bool = True) -> str:
    return box.ended(target, kind="output", has_transcript=has_transcript)


def refusal(code: int, message: str) -> Reply:
    return Reply(code, {"Content-Type": "application/json"}, json.dumps({"error": {"code": code, "message": message}}).encode())


@pytest.mark.parametrize("prefix", ["/talks/2026", "/talks/2026/", "", "/spillway", "/spillway/jobs-of-ours"])
def test_a_transcript_is_written_in_every_format_with_its_media_type(
    writing: DeliveryBox, cloud: CloudServer, bucket: str, prefix: str
) -> None:
    job_id = owing(writing, f"gs://{bucket}{prefix}")
    assert writing.settled(writing.deliverer(), job_id).state == DeliveryState.DELIVERED
    folder = f"{prefix.strip('/')}/".lstrip("/")
    assert cloud.names(bucket) == sorted(f"{folder}{job_id}.{form}" for form in Format)
    for form in Format:
        assert cloud.content(bucket, f"{folder}{job_id}.{form}").decode() == render(TRANSCRIPT, form)
    assert Transcript.model_validate_json(cloud.content(bucket, f"{folder}{job_id}.json")) == TRANSCRIPT
    assert cloud.media_type(bucket, f"{folder}{job_id}.vtt") == "text/vtt; charset=utf-8"


def test_two_jobs_under_one_prefix_do_not_collide(writing: DeliveryBox, cloud: CloudServer, bucket: str) -> None:
    deliverer = writing.deliverer()
    for job_id in [owing(writing, f"gs://{bucket}/talks") for _ in range(2)]:
        assert writing.settled(deliverer, job_id).state == DeliveryState.DELIVERED
    assert len(cloud.names(bucket)) == 2 * len(Format)


def test_the_json_is_there_last(writing: DeliveryBox, cloud: CloudServer, bucket: str) -> None:
    cloud.faults = [Fault(r"POST /upload", 2), Fault(r"POST /upload", 1, Reply(403, {}, b"no"))]
    job_id, deliverer = owing(writing, f"gs://{bucket}/talks"), writing.deliverer(pause_s=60)
    writing.tried(deliverer, job_id)
    assert len(cloud.names(bucket)) == 2
    assert f"talks/{job_id}.json" not in cloud.names(bucket)


def test_a_try_that_broke_half_way_is_repeated_and_what_it_wrote_is_no_error(writing: DeliveryBox, cloud: CloudServer, bucket: str) -> None:
    cloud.faults = [Fault(r"POST /upload", 3), Fault(r"POST /upload", 1, Reply(403, {}, b"no"))]
    job_id = owing(writing, f"gs://{bucket}/talks")
    delivery = writing.settled(writing.deliverer(), job_id)
    assert (delivery.state, len(delivery.attempts)) == (DeliveryState.DELIVERED, 2)
    assert len(cloud.names(bucket)) == len(Format)
    generations = {name: cloud.generation(bucket, name) for name in cloud.names(bucket)}
    again = writing.senders[DeliveryKind.OUTPUT](writing.delivery(job_id), lambda: None)
    assert again.state == DeliveryState.DELIVERED
    assert {name: cloud.generation(bucket, name) for name in cloud.names(bucket)} == generations, "nothing was written anew"


def test_an_account_that_may_create_and_read_and_not_delete_can_repeat_a_try(writing: DeliveryBox, cloud: CloudServer, bucket: str) -> None:
    job_id = owing(writing, f"gs://{bucket}/talks")
    for form in Format:
        cloud.put(bucket, f"talks/{job_id}.{form}", render(TRANSCRIPT, form).encode())
    cloud.faults = [Fault(r"POST /upload", 99, refusal(403, "box@p.iam does not have storage.objects.delete access to the object."))]
    delivery = writing.settled(writing.deliverer(), job_id)
    assert (delivery.state, len(delivery.attempts)) == (DeliveryState.DELIVERED, 1)


def test_what_is_there_already_is_never_replaced(writing: DeliveryBox, cloud: CloudServer, bucket: str) -> None:
    job_id = owing(writing, f"gs://{bucket}/talks")
    cloud.put(bucket, f"talks/{job_id}.srt", b"somebody else's")
    delivery = writing.tried(writing.deliverer(pause_s=60), job_id)
    assert delivery.state == DeliveryState.PENDING
    assert "is there already with other content: name another prefix" in str(delivery.attempts[0].error)
    assert cloud.content(bucket, f"talks/{job_id}.srt") == b"somebody else's"


def test_a_bucket_that_is_missing_is_said_and_waited_for(writing: DeliveryBox, cloud: CloudServer, bucket: str) -> None:
    job_id, deliverer = owing(writing, f"gs://{bucket}-later/talks"), writing.deliverer()
    delivery = writing.tried(deliverer, job_id)
    assert delivery.attempts[0].error == f"there is no bucket {bucket}-later, or not under this name: create it, or correct the address"
    cloud.make_bucket(f"{bucket}-later")
    assert writing.settled(deliverer, job_id).state == DeliveryState.DELIVERED


REFUSALS = {
    "no permission": (
        refusal(403, "box@p.iam.gserviceaccount.com does not have storage.objects.create access to the object."),
        "box@p.iam.gserviceaccount.com lacks storage.objects.create",
        "grant it roles/storage.objectCreator on bucket",
    ),
    "a project that is closed": (refusal(403, "The billing account for the owning project is disabled"), "project", "good standing"),
    "credentials that have expired": (
        refusal(401, "Invalid Credentials"),
        "does not take our credentials",
        "SPILLWAY_GCS_CREDENTIALS_FILE",
    ),
    "no server": (Reply(503, {}, b"later"), "cannot be reached", ""),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_bucket_that_refuses_says_why_and_is_tried_again(writing: DeliveryBox, cloud: CloudServer, bucket: str, case: str) -> None:
    reply, said, remedy = REFUSALS[case]
    job_id, deliverer = owing(writing, f"gs://{bucket}/talks"), writing.deliverer()
    cloud.faults = [Fault(r"POST /upload", 99, reply)]
    error = str(writing.tried(deliverer, job_id).attempts[0].error)
    assert said in error
    assert remedy in error
    assert bucket in error
    cloud.faults = []
    assert writing.settled(deliverer, job_id).state == DeliveryState.DELIVERED


@pytest.mark.parametrize("folder", ["jobs", "jobs/a/attempts/1", "uploads", "probes"])
def test_our_own_files_are_nobodys_prefix(writing: DeliveryBox, cloud: CloudServer, bucket: str, folder: str) -> None:
    job_id = owing(writing, f"gs://{bucket}/spillway/{folder}")
    delivery = writing.tried(writing.deliverer(pause_s=60), job_id)
    assert "keeps files of its own: name another prefix" in str(delivery.attempts[0].error)
    assert cloud.names(bucket) == []


def test_a_job_without_a_transcript_writes_none(writing: DeliveryBox, cloud: CloudServer, bucket: str) -> None:
    delivery = writing.settled(writing.deliverer(), owing(writing, f"gs://{bucket}/talks", has_transcript=False))
    assert (delivery.state, delivery.attempts[0].error) == (DeliveryState.STOPPED, "the job ended without a transcript")
    assert cloud.names(bucket) == []


def test_a_transcript_that_was_deleted_is_not_waited_for(writing: DeliveryBox, bucket: str) -> None:
    job_id = owing(writing, f"gs://{bucket}/talks")
    writing.files.delete_job(job_id)
    delivery = writing.settled(writing.deliverer(), job_id)
    assert (delivery.state, delivery.attempts[0].error) == (
        DeliveryState.STOPPED,
        "the transcript is gone: its file is no longer in the file store; send the recording again",
    )


def test_where_our_own_files_are_is_told_to_no_client(
    writing: DeliveryBox, cloud: CloudServer, bucket: str, tmp_path: Path, connect_storage: Callable[..., CloudStorage]
) -> None:
    storage = connect_storage(patience=SHORT)
    own = BucketFileStore(storage, Place("our-own-bucket", "spillway"), tmp_path)
    writing.senders[DeliveryKind.OUTPUT] = OutputSender(own.read, storage, own.place("x"))
    cloud.faults = [Fault("our-own-bucket", 99, Reply(503, {}, b"later"))]
    with capture_logs() as logs:
        delivery = writing.tried(writing.deliverer(pause_s=60), owing(writing, f"gs://{bucket}/talks"))
    assert delivery.attempts[0].error == "the transcript cannot be read at the moment: the log has the details"
    assert "our-own-bucket" in str(logs)


def test_a_job_that_is_deleted_meanwhile_writes_no_more(writing: DeliveryBox, cloud: CloudServer, bucket: str) -> None:
    job_id, deliverer = owing(writing, f"gs://{bucket}/talks"), writing.deliverer()
    is_reached, released = threading.Event(), threading.Event()
    cloud.faults = [Fault(r"POST /upload", after=lambda: (is_reached.set(), released.wait(20))[0])]
    deliverer.step()
    assert is_reached.wait(10)
    writing.jobs.delete(job_id)
    deliverer.step()
    released.set()
    writing.stepped(deliverer, lambda: not deliverer._flights, "the delivery to be left")
    assert len(cloud.names(bucket)) <= 1


def test_a_dispatcher_killed_in_the_middle_of_an_output_writes_the_rest_and_nothing_twice(
    writing: DeliveryBox, cloud: CloudServer, bucket: str, redis_url: str, ffmpeg: str
) -> None:
    is_reached, released = threading.Event(), threading.Event()
    cloud.faults = [Fault(r"POST /upload", 2), Fault(r"POST /upload", after=lambda: (is_reached.set(), released.wait(30))[0])]
    job_id = owing(writing, f"gs://{bucket}/talks")
    with running_dispatcher(redis_url, writing.folder, ffmpeg) as first:
        assert is_reached.wait(30)
        first.kill()
    released.set()
    written = {name: cloud.generation(bucket, name) for name in cloud.names(bucket)}
    assert 2 <= len(written) < len(Format)
    writing.redis.delete("spillway:leader")  # its term ends 10 s later, which is not what is looked at here
    with running_dispatcher(redis_url, writing.folder, ffmpeg):
        wait_for(lambda: writing.delivery(job_id).state == DeliveryState.DELIVERED, "the delivery to end")
    assert cloud.names(bucket) == sorted(f"talks/{job_id}.{form}" for form in Format)
    assert {name: cloud.generation(bucket, name) for name in written} == written
    log = writing.folder.with_suffix(".log").read_text()
    assert "delivery tried" in log
    assert "Good morning" not in log
