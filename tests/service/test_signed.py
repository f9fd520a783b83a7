"""Recordings and transcripts that go straight to and from the bucket."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from werkzeug.test import TestResponse

from core.api_keys import Scope
from core.bucket_file_store import BucketFileStore
from core.file_store import product_key
from core.gcs import CloudStorage, Patience
from core.gs_address import Place
from core.job_store import JobStore
from service.collaborators import Collaborators
from service.deletion import delete
from tests.gcs_server import CloudServer, Fault, Reply
from tests.service.box import TRANSCRIPT, Box, commit, wav
from tests.service.test_sources import send

SHORT = Patience(connect_s=0.5, silence_s=0.5, tries_s=1.0)
NOT_A_BUCKET = "not in a bucket"


@pytest.fixture
def signing_box(
    redis_url: str, tmp_path: Path, ffmpeg: str, bucket: str, connect_storage: Callable[..., CloudStorage], key: str
) -> Iterator[Box]:
    box = Box(redis_url, tmp_path, ffmpeg, files=BucketFileStore(connect_storage(key, SHORT), Place(bucket, "spillway"), tmp_path))
    yield box
    box.close()


@pytest.fixture
def unsigned_box(redis_url: str, tmp_path: Path, ffmpeg: str, bucket: str, connect_storage: Callable[..., CloudStorage]) -> Iterator[Box]:
    """With credentials that cannot sign."""
    box = Box(redis_url, tmp_path, ffmpeg, files=BucketFileStore(connect_storage(patience=SHORT), Place(bucket, "spillway"), tmp_path))
    yield box
    box.close()


def seconds_from_now(time: str) -> float:
    return (datetime.fromisoformat(time) - datetime.now(UTC)).total_seconds()


def uploaded(box: Box) -> str:
    """A recording brought as the API's documentation says; what to name as its source."""
    begun = box.http.post("/v1/uploads", json={"bytes": len(wav(2))}).get_json()
    place = httpx.post(begun["upload_url"], headers=begun["headers"])
    assert place.status_code == 201
    assert httpx.put(place.headers["Location"], content=wav(2)).status_code == 200
    return str(begun["source"])


def test_an_upload_by_a_signed_address_becomes_a_source(signing_box: Box, cloud: CloudServer, bucket: str) -> None:
    source = uploaded(signing_box)
    assert source.startswith(f"gs://{bucket}/spillway/uploads/")
    assert cloud.content(bucket, source.removeprefix(f"gs://{bucket}/")) == wav(2)
    assert send(signing_box, {"source": source}).status_code == 202


def test_an_upload_says_how_long_it_may_begin(signing_box: Box) -> None:
    response = signing_box.http.post("/v1/uploads", json={})
    assert response.status_code == 201
    assert 3500 < seconds_from_now(response.get_json()["expires_at"]) <= 3600


@pytest.fixture
def keyed_box(
    redis_url: str, tmp_path: Path, ffmpeg: str, bucket: str, connect_storage: Callable[..., CloudStorage], key: str
) -> Iterator[Box]:
    """Each API key may have two jobs."""
    files = BucketFileStore(connect_storage(key, SHORT), Place(bucket, "spillway"), tmp_path)
    box = Box(redis_url, tmp_path, ffmpeg, files=files, access="keys", max_jobs_per_key=2)
    yield box
    box.close()


def test_a_key_begins_no_more_uploads_in_an_hour_than_it_may_have_jobs(keyed_box: Box) -> None:
    def begun(headers: dict[str, str]) -> TestResponse:
        return keyed_box.http.post("/v1/uploads", json={}, headers=headers)

    scopes = (Scope.SUBMIT, Scope.SUBMIT, Scope.ADMIN)
    alice, bob, admin = ({"Authorization": f"Bearer {keyed_box.keys.create('somebody', scope).text}"} for scope in scopes)
    assert [begun(alice).status_code for _ in range(3)] == [201, 201, 429]
    refused = begun(alice)
    assert (refused.get_json()["code"], int(refused.headers["Retry-After"])) == ("rate_limited", pytest.approx(1800, abs=5))
    assert "2 uploads an hour" in refused.get_json()["detail"]
    assert begun(bob).status_code == 201
    assert [begun(admin).status_code for _ in range(5)] == [201] * 5


def test_every_upload_has_a_name_of_its_own(signing_box: Box) -> None:
    assert len({signing_box.http.post("/v1/uploads", json={}).get_json()["source"] for _ in range(3)}) == 3


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [({"bytes": 10**15}, 413, "too_large"), ({"bytes": 0}, 422, "invalid_request"), ({"size": 5}, 422, "unknown_option")],
)
def test_an_upload_that_cannot_be_is_refused(signing_box: Box, body: dict[str, int], status: int, code: str) -> None:
    response = signing_box.http.post("/v1/uploads", json=body)
    assert (response.status_code, response.get_json()["code"]) == (status, code)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"[" * 20_000])
def test_a_body_that_is_no_object_is_refused_with_what_to_send(signing_box: Box, body: bytes) -> None:
    response = signing_box.http.post("/v1/uploads", data=body, content_type="application/json")
    assert (response.status_code, response.get_json()["code"]) == (422, "invalid_request")
    assert "send a JSON object such as {}" in response.get_json()["detail"]


def test_an_upload_goes_with_its_job(signing_box: Box, cloud: CloudServer, bucket: str) -> None:
    job_id = send(signing_box, {"source": uploaded(signing_box)}).get_json()["id"]
    assert signing_box.http.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert cloud.names(bucket) == []


def test_a_source_of_the_callers_own_stays_when_its_job_goes(signing_box: Box, cloud: CloudServer, bucket: str) -> None:
    for name in ("talk.wav", "spillway/uploads-of-mine/talk.wav"):
        cloud.put(bucket, name, wav(2))
        job_id = send(signing_box, {"source": f"gs://{bucket}/{name}"}).get_json()["id"]
        assert signing_box.http.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert cloud.names(bucket) == ["spillway/uploads-of-mine/talk.wav", "talk.wav"]


def test_a_transcript_is_downloaded_by_a_signed_address(signing_box: Box) -> None:
    job_id = signing_box.submitted()
    commit(signing_box.jobs, signing_box.files, signing_box.claim())
    signed = signing_box.http.get(f"/v1/jobs/{job_id}/transcript/url").get_json()
    assert json.loads(httpx.get(signed["url"]).content) == json.loads(TRANSCRIPT.model_dump_json())
    assert 500 < seconds_from_now(signed["expires_at"]) <= 600


def test_a_transcript_that_is_not_there_has_no_address(signing_box: Box) -> None:
    response = signing_box.http.get(f"/v1/jobs/{signing_box.submitted()}/transcript/url")
    assert (response.status_code, response.get_json()["code"]) == (409, "transcript_not_ready")


def test_without_a_bucket_nothing_is_signed_and_the_other_way_is_said(box: Box) -> None:
    job_id = box.submitted()
    for response, way in (
        (box.http.post("/v1/uploads", json={}), "POST /v1/jobs"),
        (box.http.get(f"/v1/jobs/{job_id}/transcript/url"), f"/v1/jobs/{job_id}/transcript"),
    ):
        problem = response.get_json()
        assert (response.status_code, problem["code"]) == (422, "unsupported")
        assert NOT_A_BUCKET in problem["detail"]
        assert way in problem["detail"]


def test_credentials_that_cannot_sign_are_the_operators_to_mend(unsigned_box: Box) -> None:
    response = unsigned_box.http.post("/v1/uploads", json={})
    assert (response.status_code, response.get_json()["code"]) == (503, "storage_denied")


class BusyRunner(JobStore):
    """Stores a product between the files' end and the record's."""

    def __init__(self, box: Box) -> None:
        super().__init__(box.redis)
        self._files = box.files

    def delete(self, job_id: str) -> None:
        self._files.write(product_key(job_id, 1, "asr"), b"{}")
        super().delete(job_id)


def test_what_a_runner_stores_while_its_job_is_deleted_goes_too(signing_box: Box, cloud: CloudServer, bucket: str) -> None:
    signing_box.submitted()
    collaborators: Collaborators = signing_box.http.application.extensions["spillway"]
    delete(signing_box.claim(), replace(collaborators, jobs=BusyRunner(signing_box)))
    assert cloud.names(bucket) == []


@pytest.mark.parametrize("status", [503, 403])
def test_a_job_is_deleted_whole_once_the_bucket_is_back(signing_box: Box, cloud: CloudServer, bucket: str, status: int) -> None:
    job_id = signing_box.submitted()
    cloud.faults = [Fault("/storage/v1/b/", 99, Reply(status, {}, b"no"))]
    assert signing_box.http.delete(f"/v1/jobs/{job_id}").status_code == 503
    assert signing_box.http.get(f"/v1/jobs/{job_id}").status_code == 200
    cloud.faults = []
    assert signing_box.http.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert (cloud.names(bucket), signing_box.http.get(f"/v1/jobs/{job_id}").status_code) == ([], 404)
