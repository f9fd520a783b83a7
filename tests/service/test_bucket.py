"""The service over a bucket: what goes there, what does not, and what clients hear when it is away."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.bucket_file_store import BucketFileStore
from core.gcs import CloudStorage, Patience
from core.gs_address import Place
from tests.conftest import wait_for
from tests.gcs_server import CloudServer, Fault, Reply
from tests.service.box import Box, wav

SHORT = Patience(connect_s=0.5, silence_s=0.5, tries_s=1.0)


@pytest.fixture
def bucket_box(redis_url: str, tmp_path: Path, ffmpeg: str, bucket: str, connect_storage: Callable[..., CloudStorage]) -> Iterator[Box]:
    files = BucketFileStore(connect_storage(patience=SHORT), Place(bucket, "spillway"), tmp_path)
    box = Box(redis_url, tmp_path, ffmpeg, files=files)
    yield box
    box.close()


def test_an_upload_is_in_the_bucket_and_no_longer_here(bucket_box: Box, cloud: CloudServer, bucket: str) -> None:
    job_id = bucket_box.submitted()
    assert cloud.content(bucket, f"spillway/jobs/{job_id}/input") == wav(2)
    assert cloud.seen("/download/") == 0, "it was fetched back to be probed"
    assert bucket_box.stored_files() == []


def test_what_is_refused_never_travels(bucket_box: Box, cloud: CloudServer) -> None:
    assert bucket_box.submit(b"this is not a recording at all" * 50).status_code == 422
    assert bucket_box.submit(model="large-v9").status_code == 422
    assert (cloud.requests, bucket_box.stored_files()) == ([], [])


def test_a_repeated_request_leaves_one_upload(bucket_box: Box, cloud: CloudServer, bucket: str) -> None:
    first, second = (bucket_box.submit(key="k").get_json()["id"] for _ in range(2))
    assert first == second
    assert cloud.names(bucket) == [f"spillway/jobs/{first}/input"]


def test_a_job_deleted_is_gone_from_the_bucket(bucket_box: Box, cloud: CloudServer, bucket: str) -> None:
    job_id = bucket_box.submitted()
    assert bucket_box.http.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert cloud.names(bucket) == []


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [(503, "storage_unavailable", "away for the moment"), (403, "storage_denied", "until its operator mends it")],
)
def test_a_bucket_that_is_away_is_said_without_its_name(
    bucket_box: Box, cloud: CloudServer, bucket: str, status: int, code: str, said: str
) -> None:
    cloud.faults = [Fault("POST /upload", 99, Reply(status, {}, b"no"))]
    response = bucket_box.submit()
    problem = response.get_json()
    assert (response.status_code, problem["code"], said in problem["detail"]) == (503, code, True)
    assert int(response.headers["Retry-After"]) > 0
    assert bucket not in response.get_data(as_text=True)
    assert (bucket_box.jobs.page().jobs, bucket_box.stored_files()) == ([], [])


def test_probes_answer_at_once_while_the_bucket_is_silent(bucket_box: Box, cloud: CloudServer) -> None:
    cloud.faults = [Fault(".", 99, is_silent=True)]
    assert bucket_box.http.get("/healthz").status_code == 200
    assert bucket_box.http.get("/readyz").get_json()["reasons"] == ["the bucket has not answered yet"]  # or it would know by then
    wait_for(lambda: bucket_box.http.get("/readyz").get_json()["reasons"] == ["the bucket cannot be written"], "the verdict")


def test_a_bucket_that_can_be_written_is_ready(bucket_box: Box) -> None:
    wait_for(lambda: bucket_box.http.get("/readyz").status_code == 200, "the verdict")
