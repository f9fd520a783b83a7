"""Sources in a bucket: what comes, what goes on after a break, and whose fault it is when nothing does."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.errors import ObjectRefused, SourceTooLarge
from core.gcs import PIECE_BYTES, CloudStorage, Patience
from core.gs_address import Place
from core.local_file_store import LocalFileStore
from dispatcher.gs_fetch import GsFetch
from dispatcher.landing import Interrupted, Landing
from tests.gcs_server import CloudServer, Fault, Reply

LARGE = bytes(range(256)) * (PIECE_BYTES // 256) + b"end"  # two pieces
SHORT = Patience(connect_s=0.5, silence_s=0.5, tries_s=1.0)
NAME = "a folder/talk #1?.flac"


class Cancelled(Exception):
    pass


@pytest.fixture
def landing(tmp_path: Path) -> Iterator[Landing]:
    made = Landing(LocalFileStore(tmp_path), "jobs/a/input", max_bytes=len(LARGE))
    yield made
    made.discard()


@pytest.fixture
def fetch(connect_storage: Callable[..., CloudStorage], bucket: str) -> GsFetch:
    return GsFetch(connect_storage(patience=SHORT), Place(bucket, "spillway"))


@pytest.fixture
def source(cloud: CloudServer, bucket: str) -> str:
    cloud.put(bucket, NAME, LARGE)
    return f"gs://{bucket}/{NAME}"


def never() -> None:
    pass


def second_piece_fails(cloud: CloudServer, **how: object) -> None:
    cloud.faults = [Fault("/download/", times=1), Fault("/download/", times=99, **how)]  # type: ignore[arg-type]


def test_an_object_comes_whole(fetch: GsFetch, landing: Landing, source: str) -> None:
    fetch(source, landing, never)
    assert landing.path().read_bytes() == LARGE


def test_an_empty_object_comes_as_an_empty_file(fetch: GsFetch, landing: Landing, cloud: CloudServer, bucket: str) -> None:
    cloud.put(bucket, "empty.wav", b"")
    fetch(f"gs://{bucket}/empty.wav", landing, never)
    assert landing.path().read_bytes() == b""


def test_the_next_try_brings_only_the_rest(fetch: GsFetch, landing: Landing, cloud: CloudServer, source: str) -> None:
    second_piece_fails(cloud, instead=Reply(503, {}, b"try again"))
    with pytest.raises(Interrupted, match="cannot be reached"):
        fetch(source, landing, never)
    assert landing.arrived_bytes == PIECE_BYTES
    cloud.reset()
    fetch(source, landing, never)
    assert landing.path().read_bytes() == LARGE
    assert cloud.seen("/download/") == 1


def test_another_version_is_fetched_anew(fetch: GsFetch, landing: Landing, cloud: CloudServer, bucket: str, source: str) -> None:
    second_piece_fails(cloud, is_cut=True)
    with pytest.raises(Interrupted):
        fetch(source, landing, never)
    cloud.reset()
    cloud.put(bucket, NAME, LARGE[::-1])
    fetch(source, landing, never)
    assert landing.path().read_bytes() == LARGE[::-1]


def test_a_version_that_changes_while_it_comes_is_refused(
    fetch: GsFetch, landing: Landing, cloud: CloudServer, bucket: str, source: str
) -> None:
    cloud.faults = [Fault("/download/", after=lambda: cloud.put(bucket, NAME, b"new"))]
    with pytest.raises(ObjectRefused, match="changed while it was being read"):
        fetch(source, landing, never)


def test_what_arrives_damaged_is_thrown_away(fetch: GsFetch, landing: Landing, cloud: CloudServer, source: str) -> None:
    cloud.faults = [Fault("/download/", alters=lambda body: b"X" + body[1:])]
    with pytest.raises(Interrupted, match="damaged"):
        fetch(source, landing, never)
    assert (landing.arrived_bytes, landing.validator) == (0, "")


def test_an_object_of_too_many_bytes_is_refused_before_its_first(fetch: GsFetch, landing: Landing, cloud: CloudServer, bucket: str) -> None:
    cloud.put(bucket, "long.flac", LARGE + b"1")
    with pytest.raises(SourceTooLarge, match=f"larger than {len(LARGE)} bytes"):
        fetch(f"gs://{bucket}/long.flac", landing, never)
    assert cloud.seen("/download/") == 0


def test_a_cancel_ends_it_in_the_middle_of_a_piece(fetch: GsFetch, landing: Landing, cloud: CloudServer, source: str) -> None:
    def cancelled() -> None:
        if cloud.seen("/download/"):
            raise Cancelled

    with pytest.raises(Cancelled):
        fetch(source, landing, cancelled)
    assert (landing.arrived_bytes, cloud.seen("/download/")) == (0, 1)


def test_what_is_missing_or_closed_to_us_is_said_with_what_to_do(fetch: GsFetch, landing: Landing, cloud: CloudServer, bucket: str) -> None:
    with pytest.raises(ObjectRefused, match=f"there is no gs://{bucket}/no.flac: check the address"):
        fetch(f"gs://{bucket}/no.flac", landing, never)
    with pytest.raises(ObjectRefused, match="there is no bucket no-such-bucket"):
        fetch("gs://no-such-bucket/talk.flac", landing, never)
    said = {"error": {"code": 403, "message": "box@p.iam.gserviceaccount.com does not have storage.objects.get access to the object."}}
    cloud.faults = [Fault("GET", 9, Reply(403, {"Content-Type": "application/json"}, json.dumps(said).encode()))]
    with pytest.raises(ObjectRefused, match=f"grant it roles/storage.objectViewer on bucket {bucket}"):
        fetch(f"gs://{bucket}/no.flac", landing, never)


@pytest.mark.parametrize("status", [401, 429, 503])
def test_what_is_ours_or_googles_to_mend_is_tried_again(
    fetch: GsFetch, landing: Landing, cloud: CloudServer, source: str, status: int
) -> None:
    cloud.faults = [Fault("GET", 99, Reply(status, {}, b"no"))]
    with pytest.raises(Interrupted):
        fetch(source, landing, never)


@pytest.mark.parametrize(("name", "is_refused"), [("spillway/jobs/a/input", True), ("spillway/jobs-of-ours.flac", False)])
def test_the_files_of_other_jobs_are_no_sources(
    fetch: GsFetch, landing: Landing, cloud: CloudServer, bucket: str, name: str, is_refused: bool
) -> None:
    cloud.put(bucket, name, b"x")
    if is_refused:
        with pytest.raises(ObjectRefused, match="belongs to a job of this installation"):
            fetch(f"gs://{bucket}/{name}", landing, never)
    else:
        fetch(f"gs://{bucket}/{name}", landing, never)
