"""What only a bucket can do to us: faults on the way, refusals, credentials, addresses that are signed."""

import json
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import httpx
import pytest

from core.bucket_file_store import CONTENT_TYPE, UPLOAD_HEADERS, BucketFileStore
from core.errors import (
    BucketDenied,
    InvalidRequest,
    JobCancelled,
    ObjectRefused,
    OurError,
    SpillwayError,
    StorageDenied,
    StorageUnavailable,
)
from core.gcs import PIECE_BYTES, CloudStorage, Patience
from core.gs_address import Place
from core.gs_transfers import deliver_object, fetch_object, find_object
from tests.conftest import free_port, wait_for
from tests.gcs_server import EMAIL, CloudServer, Fault, Reply

SHORT = Patience(connect_s=0.5, silence_s=0.5, tries_s=1.5)
LARGE = bytes(range(256)) * (PIECE_BYTES // 256) + b"end"  # two pieces
Connect = Callable[..., CloudStorage]
CLAIM = "spillway/jobs/a/claim-1"  # the object of `jobs/a/claim-1`
TOO_BUSY = Reply(503, {}, b"try again")


@pytest.fixture
def store(connect_storage: Connect, bucket: str, tmp_path: Path) -> BucketFileStore:
    return BucketFileStore(connect_storage(patience=SHORT), Place(bucket, "spillway"), tmp_path)


@pytest.fixture
def signing_store(connect_storage: Connect, bucket: str, key: str, tmp_path: Path) -> BucketFileStore:
    return BucketFileStore(connect_storage(key, SHORT), Place(bucket, "spillway"), tmp_path)


def refusal(status: int, message: str, reason: str = "forbidden") -> Reply:
    """As Google's JSON API words it."""
    error = {"code": status, "message": message, "errors": [{"message": message, "domain": "global", "reason": reason}]}
    return Reply(status, {"Content-Type": "application/json"}, json.dumps({"error": error}).encode())


# Faults on the way up

UPLOAD_FAULTS = {
    "too busy to begin": Fault("uploadType=resumable&?[^_]*$", instead=TOO_BUSY),
    "too busy for a piece": Fault("PUT .*upload_id", times=2, instead=TOO_BUSY),
    "cut in a piece": Fault("PUT .*upload_id", times=2, is_cut=True),
    "silent in a piece": Fault("PUT .*upload_id", is_silent=True),
    "the answer to a piece lost": Fault("PUT .*upload_id", loses_reply=True),
}


@pytest.mark.parametrize("fault", UPLOAD_FAULTS)
def test_a_large_upload_survives(store: BucketFileStore, cloud: CloudServer, bucket: str, fault: str) -> None:
    cloud.faults = [replace(UPLOAD_FAULTS[fault])]
    store.write("jobs/a/input", LARGE)
    assert cloud.content(bucket, "spillway/jobs/a/input") == LARGE
    assert cloud.faults[0].times == 0
    assert cloud.seen("uploadType=resumable") - cloud.seen("upload_id") <= 2, "it began anew in place of going on"


@pytest.mark.parametrize("size", [5, len(LARGE)])
def test_an_upload_whose_last_answer_is_lost_counts_as_done(store: BucketFileStore, cloud: CloudServer, bucket: str, size: int) -> None:
    line = "uploadType=multipart" if size == 5 else "PUT .*upload_id"
    pieces = 1 if size == 5 else -(-size // PIECE_BYTES)
    cloud.faults = [Fault(line, times=pieces - 1), Fault(line, loses_reply=True)]
    store.write_once("jobs/a/transcript-1.json", LARGE[:size])
    assert cloud.content(bucket, "spillway/jobs/a/transcript-1.json") == LARGE[:size]


@pytest.mark.parametrize("size", [5, len(LARGE)])
def test_what_arrives_damaged_is_no_upload(store: BucketFileStore, cloud: CloudServer, size: int) -> None:
    def damaged(body: bytes) -> bytes:
        answer = json.loads(body)
        return json.dumps({**answer, "crc32c": "AAAAAA=="} if "crc32c" in answer else answer).encode()

    cloud.faults = [Fault("uploadType=multipart|upload_id", times=9, alters=damaged)]
    with pytest.raises(StorageUnavailable):
        store.write("jobs/a/input", LARGE[:size])


@pytest.mark.parametrize(
    "fault", [Fault(".", 99, instead=TOO_BUSY), Fault(".", 99, is_cut=True), Fault(".", 99, is_silent=True)], ids=["busy", "cut", "silent"]
)
def test_a_bucket_that_stays_away_is_given_up_within_its_time(store: BucketFileStore, cloud: CloudServer, fault: Fault) -> None:
    cloud.faults = [Fault(fault.pattern, 99, fault.instead, is_cut=fault.is_cut, is_silent=fault.is_silent)]
    with pytest.raises(StorageUnavailable):
        store.write("jobs/a/input", b"x")
    with pytest.raises(StorageUnavailable):
        store.read("jobs/a/input")
    assert store.fault() == "the bucket has not answered yet"


def test_a_host_that_is_not_there_is_given_up(connect_storage: Connect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StorageUnavailable, match="cannot be reached"):
        BucketFileStore(connect_storage(patience=SHORT), Place("box", "x"), tmp_path).write("jobs/a/input", b"x")


# Faults on the way down

DOWNLOAD_FAULTS = {
    "busy": Fault("/download/", times=2, instead=TOO_BUSY),
    "cut": Fault("/download/", times=2, is_cut=True),
    "cut half-way": Fault("/download/", times=2, half_reply=True),
    "silent": Fault("/download/", is_silent=True),
    "busy before": Fault("GET /storage/v1/b/[^/]+/o/", instead=TOO_BUSY),
}


@pytest.mark.parametrize("fault", DOWNLOAD_FAULTS)
def test_a_large_download_survives(store: BucketFileStore, cloud: CloudServer, bucket: str, fault: str) -> None:
    cloud.put(bucket, "spillway/jobs/a/input", LARGE)
    cloud.faults = [replace(DOWNLOAD_FAULTS[fault])]
    with store.local_copy("jobs/a/input") as path:
        assert path.read_bytes() == LARGE
    assert cloud.faults[0].times == 0


@pytest.mark.parametrize("times", [1, 2])
def test_a_file_that_is_written_over_while_it_is_read_is_read_as_it_is_then(
    store: BucketFileStore, cloud: CloudServer, bucket: str, times: int
) -> None:
    """A claim that is taken back, a stage product of an earlier call's second run."""
    store.write("jobs/a/claim-1", b"old")
    news = iter([b"newer", b"newest"])
    cloud.faults = [Fault("GET .*claim-1.?projection", times=times, after=lambda: cloud.put(bucket, CLAIM, next(news)))]
    assert store.read("jobs/a/claim-1") == [b"newer", b"newest"][times - 1]


def test_a_file_that_is_deleted_while_it_is_read_is_not_there(store: BucketFileStore, cloud: CloudServer) -> None:
    store.write("jobs/a/claim-1", b"old")
    cloud.faults = [Fault("GET .*claim-1.?projection", after=lambda: store.delete("jobs/a/claim-1"))]
    with pytest.raises(FileNotFoundError):
        store.read("jobs/a/claim-1")


def test_a_file_that_changes_at_every_look_is_left_for_later(store: BucketFileStore, cloud: CloudServer, bucket: str) -> None:
    store.write("jobs/a/claim-1", b"old")
    cloud.faults = [Fault("GET .*claim-1.?projection", times=9, after=lambda: cloud.put(bucket, CLAIM, bytes(cloud.seen("projection"))))]
    with pytest.raises(StorageUnavailable, match="changes"):
        store.read("jobs/a/claim-1")


def test_what_arrives_damaged_is_not_read(store: BucketFileStore, cloud: CloudServer, bucket: str, tmp_path: Path) -> None:
    cloud.put(bucket, "spillway/jobs/a/input", LARGE)
    cloud.faults = [Fault("/download/", alters=lambda body: b"X" + body[1:])]
    with pytest.raises(StorageUnavailable, match="damaged"), store.local_copy("jobs/a/input"):
        pass
    assert list((tmp_path / "partial").iterdir()) == []


def test_a_copy_under_way_hears_of_a_cancel(store: BucketFileStore, cloud: CloudServer, bucket: str, tmp_path: Path) -> None:
    def cancelled() -> None:
        if cloud.seen("/download/"):
            raise JobCancelled("a")

    cloud.put(bucket, "spillway/jobs/a/input", LARGE)
    with pytest.raises(JobCancelled), store.local_copy("jobs/a/input", cancelled):
        pass
    assert cloud.seen("/download/") == 1
    assert list((tmp_path / "partial").iterdir()) == []


# Refusals

REFUSALS = {
    "no permission": (
        refusal(403, f"{EMAIL} does not have storage.objects.create access to the Google Cloud Storage object."),
        BucketDenied, rf"{EMAIL} lacks storage.objects.create .* grant it roles/storage.objectCreator",
    ),
    "no permission to replace": (
        refusal(403, f"{EMAIL} does not have storage.objects.delete access to the Google Cloud Storage object."),
        BucketDenied, "roles/storage.objectUser",
    ),
    "requester pays": (
        refusal(400, "Bucket is a requester pays bucket but no user project provided.", "required"), BucketDenied, "project",
    ),
    "billing is off": (
        refusal(403, "The billing account for the owning project is disabled in state absent", "accountDisabled"), BucketDenied, "billing",
    ),
    "a token that is not taken": (refusal(401, "Invalid Credentials", "authError"), StorageDenied, "expired"),
    "too many requests": (refusal(429, "The rate of change requests exceeds the limit", "rateLimitExceeded"), StorageUnavailable, "."),
    "damage on the way": (
        refusal(400, 'Provided CRC32C "AAAAAA==" doesn\'t match calculated CRC32C "mnG7TA==".', "invalid"), StorageUnavailable, "damaged",
    ),
    "a quota": (refusal(403, "Quota exceeded", "rateLimitExceeded"), StorageUnavailable, "quota"),
    "an error of theirs": (refusal(500, "Backend Error", "backendError"), StorageUnavailable, "."),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSALS)
def test_a_refusal_says_what_to_do(signing_store: BucketFileStore, cloud: CloudServer, why: str) -> None:
    answer, kind, said = REFUSALS[why]
    cloud.faults = [Fault("POST /upload", 99, answer)]
    with pytest.raises(OurError, match=said) as caught:
        signing_store.write("jobs/a/input", b"x")
    assert type(caught.value) is kind


@pytest.mark.parametrize("size", [1, len(LARGE)])
def test_a_bucket_that_is_not_there_is_no_missing_file(connect_storage: Connect, tmp_path: Path, size: int) -> None:
    store = BucketFileStore(connect_storage(), Place("no-such-bucket", "x"), tmp_path)
    with pytest.raises(BucketDenied, match="there is no bucket no-such-bucket"):
        store.read("jobs/a/input")
    with pytest.raises(BucketDenied, match="there is no bucket no-such-bucket"):
        store.write("jobs/a/input", LARGE[:size])
    with pytest.raises(BucketDenied, match="there is no bucket no-such-bucket"):
        store.delete_job("a")


# Readiness


def test_whether_a_bucket_can_be_written_is_found_out_without_waiting_for_it(store: BucketFileStore, cloud: CloudServer) -> None:
    cloud.faults = [Fault(".", 99, is_silent=True)]
    assert store.fault() == "the bucket has not answered yet"
    wait_for(lambda: store.fault() == "the bucket cannot be written", "the verdict")


def test_a_fit_bucket_is_asked_once_a_minute_at_most(store: BucketFileStore, cloud: CloudServer) -> None:
    wait_for(lambda: store.fault() is None, "the verdict")
    assert [store.fault() for _ in range(50)] == [None] * 50
    assert cloud.seen("POST /upload") == 1


# Credentials


def test_a_key_file_opens_the_bucket(signing_store: BucketFileStore, cloud: CloudServer) -> None:
    signing_store.write("jobs/a/input", b"x")
    assert signing_store.read("jobs/a/input") == b"x"
    assert cloud.seen("POST /token")


def test_a_key_that_google_deleted_says_so(signing_store: BucketFileStore, cloud: CloudServer) -> None:
    gone = Reply(400, {"Content-Type": "application/json"}, b'{"error": "invalid_grant", "error_description": "Invalid JWT Signature."}')
    cloud.faults = [Fault("POST /token", 99, gone)]
    with pytest.raises(StorageDenied, match="key was deleted or disabled"):
        signing_store.write("jobs/a/input", b"x")


def test_no_credentials_at_all_are_found_out_at_the_first_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    store = BucketFileStore(CloudStorage(), Place("box", "x"), tmp_path)
    with pytest.raises(StorageDenied, match="SPILLWAY_GCS_CREDENTIALS_FILE"):
        store.write("jobs/a/input", b"x")
    with pytest.raises(StorageDenied, match="SPILLWAY_GCS_CREDENTIALS_FILE"):
        CloudStorage().look_up(Place("box", "talk.mp3"))
    wait_for(lambda: store.fault() == "the bucket cannot be written", "the verdict")


# Signed addresses


def test_a_signed_address_downloads_a_result_without_credentials(signing_store: BucketFileStore) -> None:
    signing_store.write("jobs/a/transcript-1.json", b"{}")
    url = signing_store.signed_download("jobs/a/transcript-1.json", expires_s=60)
    assert httpx.get(url).content == b"{}"


def test_a_signed_address_takes_a_large_upload_in_pieces(signing_store: BucketFileStore) -> None:
    url = signing_store.signed_upload("uploads/a", expires_s=60)
    begun = httpx.post(url, headers={**UPLOAD_HEADERS, "content-type": CONTENT_TYPE})
    assert begun.status_code == 201
    for start in range(0, len(LARGE), PIECE_BYTES):
        piece = LARGE[start : start + PIECE_BYTES]
        end, whole = start + len(piece), len(LARGE)
        total = whole if end == whole else "*"
        answer = httpx.put(begun.headers["Location"], content=piece, headers={"Content-Range": f"bytes {start}-{end - 1}/{total}"})
    assert answer.status_code == 200
    assert signing_store.read("uploads/a") == LARGE


def test_a_signed_upload_replaces_nothing(signing_store: BucketFileStore) -> None:
    signing_store.write("uploads/a", b"there already")
    headers = {**UPLOAD_HEADERS, "content-type": CONTENT_TYPE}
    assert httpx.post(signing_store.signed_upload("uploads/a", expires_s=60), headers=headers).status_code == 412


@pytest.mark.parametrize("change", ["object", "method", "time"])
def test_a_signed_address_is_good_for_what_it_was_signed_for(signing_store: BucketFileStore, change: str) -> None:
    for key in ("jobs/a/input", "jobs/b/input"):
        signing_store.write(key, b"x")
    url = signing_store.signed_download("jobs/a/input", expires_s=60)
    if change == "object":
        url = url.replace("jobs/a", "jobs/b")
    if change == "time":
        url = url.replace("X-Goog-Expires=60", "X-Goog-Expires=6000")
    assert httpx.request("DELETE" if change == "method" else "GET", url).status_code == 403


def test_credentials_that_cannot_sign_say_so(store: BucketFileStore) -> None:
    with pytest.raises(StorageDenied, match="cannot sign addresses"):
        store.signed_download("jobs/a/input", expires_s=60)


# Objects that a caller names


@pytest.fixture
def storage(connect_storage: Connect) -> CloudStorage:
    return connect_storage(patience=SHORT)


def fetched(storage: CloudStorage, source: Place, *, start: int = 0) -> bytes:
    content = BytesIO()
    fetch_object(storage, source, find_object(storage, source), content.write, start=start)
    return content.getvalue()


@pytest.mark.parametrize("name", ["talk.flac", "a folder/ümläut #1?.mp3", "a//b", "..x/%2e"])
def test_an_object_of_any_name_is_fetched(storage: CloudStorage, cloud: CloudServer, bucket: str, name: str) -> None:
    cloud.put(bucket, name, LARGE)
    assert fetched(storage, Place.parse(f"gs://{bucket}/{name}")) == LARGE


def test_an_interrupted_fetch_goes_on_where_it_broke(storage: CloudStorage, cloud: CloudServer, bucket: str) -> None:
    cloud.put(bucket, "talk.flac", LARGE)
    cloud.faults = [Fault("/download/"), Fault("/download/", half_reply=True)]
    assert fetched(storage, Place(bucket, "talk.flac")) == LARGE
    assert cloud.seen("/download/") == 3


def test_an_object_that_changes_while_it_is_read_is_an_error(storage: CloudStorage, cloud: CloudServer, bucket: str) -> None:
    cloud.put(bucket, "talk.flac", LARGE)
    cloud.faults = [Fault("/download/", after=lambda: cloud.put(bucket, "talk.flac", LARGE[::-1]))]
    with pytest.raises(ObjectRefused, match="changed while it was being read"):
        fetched(storage, Place(bucket, "talk.flac"))


@pytest.mark.parametrize("start", [1, PIECE_BYTES, len(LARGE) - 1, len(LARGE)])
def test_what_is_here_already_is_not_fetched_again(storage: CloudStorage, cloud: CloudServer, bucket: str, start: int) -> None:
    cloud.put(bucket, "talk.flac", LARGE)
    assert fetched(storage, Place(bucket, "talk.flac"), start=start) == LARGE[start:]


def test_an_object_that_google_would_unpack_on_the_way_is_refused(storage: CloudStorage, cloud: CloudServer, bucket: str) -> None:
    cloud.put(bucket, "talk.wav", b"x", "gzip")
    with pytest.raises(ObjectRefused, match="Content-Encoding gzip"):
        fetched(storage, Place(bucket, "talk.wav"))


def test_what_a_caller_named_wrongly_is_the_callers_to_mend(storage: CloudStorage, cloud: CloudServer, bucket: str) -> None:
    with pytest.raises(ObjectRefused, match=f"there is no gs://{bucket}/talk.flac: check the address"):
        fetched(storage, Place(bucket, "talk.flac"))
    with pytest.raises(ObjectRefused, match="there is no bucket no-such-bucket"):
        fetched(storage, Place("no-such-bucket", "talk.flac"))
    cloud.faults = [Fault("GET", 9, refusal(403, f"{EMAIL} does not have storage.objects.get access to the object."))]
    with pytest.raises(
        ObjectRefused, match=rf"{EMAIL} lacks storage.objects.get .* grant it roles/storage.objectViewer on bucket {bucket}"
    ):
        fetched(storage, Place(bucket, "talk.flac"))


def test_credentials_of_ours_are_never_the_callers_to_mend(storage: CloudStorage, cloud: CloudServer, bucket: str) -> None:
    cloud.faults = [Fault("GET", 9, refusal(401, "Invalid Credentials", "authError"))]
    with pytest.raises(StorageDenied):
        fetched(storage, Place(bucket, "talk.flac"))


def test_a_result_is_delivered_once_and_may_be_delivered_again(storage: CloudStorage, cloud: CloudServer, bucket: str) -> None:
    target = Place.parse(f"gs://{bucket}/results/").under("talk.json")
    for _ in range(2):
        deliver_object(storage, target, b"{}", content_type="application/json")
    with pytest.raises(ObjectRefused, match="there already with other content"):
        deliver_object(storage, target, b"[]", content_type="application/json")
    assert cloud.content(bucket, "results/talk.json") == b"{}"
    deliver_object(storage, target, b"[]", content_type="application/json", replaces=True)
    assert cloud.content(bucket, "results/talk.json") == b"[]"


@pytest.mark.parametrize(
    "address", ["", "gs://", "gs://a", "gs://Box/x", "s3://box/x", "gs://box/x\n", "gs://box/..", "gs://box/" + "x" * 1025, "box/x"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidRequest, match="gs://bucket/name") as caught:
        Place.parse(address, field="source")
    assert caught.value.field == "source"


def test_no_message_holds_a_secret(signing_store: BucketFileStore, cloud: CloudServer) -> None:
    cloud.faults = [Fault("POST /upload", 99, refusal(500, "Backend Error"))]
    with pytest.raises(SpillwayError) as caught:
        signing_store.write("jobs/a/input", b"x")
    assert "Bearer" not in str(caught.value)
    assert "PRIVATE" not in str(caught.value)
