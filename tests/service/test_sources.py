"""Jobs whose recording is somewhere else: taken at once, fetched later by the dispatcher."""

import io
import json
from typing import Any

import pytest
from structlog.testing import capture_logs
from werkzeug.test import TestResponse

from core.fetches import Fetches
from core.job import Fetched, JobState, Stage
from core.leased import Lease
from service.source_requests import DOCUMENT_BYTES
from tests.service.box import Box, wav

SOURCE = "https://example.org/talks/Gespr%C3%A4ch%201.mp3?signature=secret"


def send(box: Box, document: object, key: str = "") -> TestResponse:
    headers = {"Idempotency-Key": key} if key else {}
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return box.http.post("/v1/jobs", data=body, content_type="application/json", headers=headers)


def test_a_source_is_taken_at_once_and_wakes_no_worker(box: Box) -> None:
    response = send(box, {"source": SOURCE, "language": "en", "num_speakers": 2, "diarize": True, "metadata": {"order": 7}})
    job = response.get_json()
    assert response.status_code == 202
    assert response.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["stage"], job["filename"]) == ("queued", "fetching", "Gespräch 1.mp3")
    assert (job["duration_s"], job["queue_position"], job["estimated_start"]) == (None, None, None)
    assert job["source"] == "https://example.org/talks/Gespr%C3%A4ch%201.mp3"
    assert (job["options"]["num_speakers"], job["metadata"]) == (2, {"order": 7})
    assert box.jobs.get(job["id"]).source == SOURCE
    assert (box.stored_files(), box.wakeups) == ([], 0)


def test_a_document_has_room_for_all_that_its_options_may_hold(box: Box) -> None:
    longest = {"source": SOURCE, "initial_prompt": "🎙" * 4_000, "metadata": {"note": "🎙" * 15_900}}
    assert send(box, json.dumps(longest).encode()).get_json()["metadata"] == longest["metadata"]


def test_a_form_may_name_the_source_too(box: Box) -> None:
    form = {"source": SOURCE, "language": "en", "num_speakers": "2", "diarize": "true", "metadata": '{"order": 7}'}
    from_form = box.http.post("/v1/jobs", data=form, content_type="multipart/form-data").get_json()
    from_json = send(box, {"source": SOURCE, "language": "en", "num_speakers": 2, "diarize": True, "metadata": {"order": 7}}).get_json()
    assert from_form["options"] == from_json["options"]
    assert from_form["source"] == from_json["source"]


@pytest.mark.parametrize("is_source_first", [True, False])
def test_a_file_and_a_source_together_are_refused_and_leave_nothing(box: Box, is_source_first: bool) -> None:
    parts = [("source", SOURCE), ("file", (io.BytesIO(wav(1)), "a.wav"))]
    form: dict[str, Any] = dict(parts if is_source_first else parts[::-1])
    response = box.http.post("/v1/jobs", data=form, content_type="multipart/form-data", buffered=True)
    assert (response.status_code, response.get_json()["field"]) == (422, "source")
    assert "came together" in response.get_json()["detail"]
    assert (box.stored_files(), box.jobs.page().jobs) == ([], [])


def test_everything_behind_the_bucket_is_name(box: Box) -> None:
    address = "gs://our-bucket/talks/Gespräch #1?take=2 100%.mp3"
    job = send(box, {"source": address}).get_json()
    assert (job["source"], job["filename"]) == (address, "Gespräch #1?take=2 100%.mp3")


@pytest.mark.parametrize("address", ["gs://", "gs://our-bucket", "gs://our-bucket/", "gs://Our/x.mp3", "gs://our-bucket/a\nb"])
def test_what_names_no_object_is_refused(box: Box, address: str) -> None:
    response = send(box, {"source": address})
    assert (response.status_code, response.get_json()["field"]) == (422, "source")
    assert "write gs://bucket/name" in response.get_json()["detail"]


def test_null_counts_as_absent(box: Box) -> None:
    assert send(box, {"source": SOURCE, "language": None, "metadata": None, "diarize": None}).status_code == 202


REFUSED: dict[str, tuple[object, int, str | None, str]] = {
    "no source": ({"language": "en"}, 422, "source", "there is no source"),
    "null for a source": ({"source": None}, 422, "source", "there is no source"),
    "a number for a source": ({"source": 5}, 422, "source", "must be a URL"),
    "an empty source": ({"source": ""}, 422, "source", "begins with https://"),
    "a path": ({"source": "/etc/passwd"}, 422, "source", "begins with https://"),
    "a file": ({"source": "file:///etc/passwd"}, 422, "source", "begins with https://"),
    "another scheme": ({"source": "ftp://example.org/a"}, 422, "source", "begins with https://"),
    "no host": ({"source": "https:///a.wav"}, 422, "source", "begins with https://"),
    "a password": ({"source": "https://me:pw@example.org/a"}, 422, "source", "user name"),
    "a bracket": ({"source": "https://[::1/a"}, 422, "source", "not a URL"),
    "a port that is none": ({"source": "https://example.org:99999/a"}, 422, "source", "not a URL"),
    "a space": ({"source": "https://example.org/a b"}, 422, "source", "encode them"),
    "a line break": ({"source": "https://example.org/a\r\nX: y"}, 422, "source", "encode them"),
    "a backslash": ({"source": "https:\\\\example.org\\a"}, 422, "source", "encode them"),
    "half a character": (b'{"source": "https://example.org/\\ud800"}', 422, "body", "not valid JSON"),
    "a long URL": ({"source": "https://example.org/" + "a" * 5000}, 422, "source", "4096"),
    "an unknown field": ({"source": SOURCE, "langauge": "en"}, 422, "langauge", "did you mean 'language'"),
    "a field of another API": ({"audio_url": SOURCE}, 422, "audio_url", "did you mean 'source'"),
    "a file in JSON": ({"source": SOURCE, "file": "abc"}, 422, "file", "holds no recording"),
    "a wrong option": ({"source": SOURCE, "num_speakers": "many"}, 422, "num_speakers", "integer"),
    "a wrong type": ({"source": SOURCE, "metadata": "text"}, 422, "metadata", "dictionary"),
    "deep metadata": ({"source": SOURCE, "metadata": json.loads('{"a":' * 60 + "1" + "}" * 60)}, 422, "metadata", "nested deeper"),
    "large metadata": ({"source": SOURCE, "metadata": {"a": "x" * 20_000}}, 422, "metadata", "16,000 characters"),
    "another model": ({"source": SOURCE, "model": "large-v9"}, 422, "model", "this installation runs tiny"),
    "a list": ([SOURCE], 422, "body", 'JSON object such as {"source"'),
    "no JSON": (b"source=https://example.org", 422, "body", "not valid JSON"),
    "nothing": (b"", 422, "body", "not valid JSON"),
    "an infinite time": (b'{"source": "https://example.org/a", "clip_start": 1e999}', 422, "body", "a number too large"),
    "NaN": (b'{"source": NaN}', 422, "body", "not valid JSON"),
    "a name twice": (b'{"source": "https://a.example/", "source": "https://b.example/"}', 422, "body", "twice"),
    "no end of brackets": (b"[" * 100_000, 422, "body", "not valid JSON"),
    "a number without end": (b'{"source": ' + b"9" * 10_000 + b"}", 422, "body", "not valid JSON"),
    "a large document": (b" " * (DOCUMENT_BYTES + 1), 413, None, "larger than 256 kB"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_document_is_refused_and_leaves_nothing(box: Box, case: str) -> None:
    document, status, field, said = REFUSED[case]
    response = send(box, document)
    problem = response.get_json()
    assert response.content_type == "application/problem+json"
    assert (response.status_code, problem.get("field")) == (status, field), problem
    assert said in problem["detail"]
    assert box.jobs.page().jobs == []


def test_a_document_without_announced_end_is_cut(box: Box) -> None:
    chunked = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True, "wsgi.input": io.BytesIO(b" " * 10**6)}
    response = box.http.post("/v1/jobs", content_type="application/json", environ_overrides=chunked)
    assert response.status_code == 413


def test_the_same_key_is_held_to_the_source_and_its_options(box: Box) -> None:
    first, again = send(box, {"source": SOURCE}, key="k"), send(box, {"source": SOURCE}, key="k")
    assert first.get_json()["id"] == again.get_json()["id"]
    assert again.headers["Idempotent-Replayed"] == "true"
    for other in ({"source": SOURCE + "&v=2"}, {"source": SOURCE, "language": "de"}):
        assert send(box, other, key="k").get_json()["code"] == "idempotency_conflict"


def test_sources_fill_the_queue_like_uploads(redis_url: str, tmp_path: Any, ffmpeg: str) -> None:
    box = Box(redis_url, tmp_path, ffmpeg, max_queued_jobs=1)
    assert send(box, {"source": SOURCE}).status_code == 202
    assert send(box, {"source": SOURCE}).get_json()["code"] == "queue_full"
    unread = box.http.post("/v1/jobs", data=b"no form", content_type="multipart/form-data; boundary=x")
    assert unread.get_json()["code"] == "queue_full", "an upload that would be refused at its end is spared"
    box.close()


def test_a_source_can_be_cancelled_and_deleted_while_it_is_fetched(box: Box) -> None:
    job_id = send(box, {"source": SOURCE}).get_json()["id"]
    cancelled = box.http.post(f"/v1/jobs/{job_id}/cancel")
    assert (cancelled.status_code, cancelled.get_json()["state"]) == (200, JobState.CANCELLED)
    assert box.http.delete(f"/v1/jobs/{job_id}").status_code == 204
    other = send(box, {"source": SOURCE}).get_json()["id"]
    assert box.http.delete(f"/v1/jobs/{other}").status_code == 204
    assert box.jobs.backlog().fetching_jobs == 0


def test_the_queue_and_the_metrics_tell_of_sources(box: Box) -> None:
    send(box, {"source": SOURCE})
    queue = box.http.get("/v1/queue").get_json()
    assert (queue["queued_jobs"], queue["fetching_jobs"]) == (0, 1)
    assert "spillway_fetching_jobs 1.0" in box.http.get("/metrics").get_data(as_text=True)


def test_a_fetched_source_shows_its_length_and_waits_like_an_upload(box: Box) -> None:
    job_id = send(box, {"source": SOURCE}).get_json()["id"]
    fetches = Fetches(box.redis, box.jobs)
    job = fetches.claim(Lease("dispatcher", 60, 3))
    assert job is not None
    assert job.stage == Stage.FETCHING
    fetches.complete(job, Fetched(duration_s=12.5, input_key="jobs/x/input", input_bytes=1, input_sha256="0"))
    seen = box.http.get(f"/v1/jobs/{job_id}").get_json()
    assert (seen["stage"], seen["duration_s"], seen["queue_position"]) == (None, 12.5, 0)


def test_the_query_of_a_source_is_shown_and_logged_nowhere(box: Box) -> None:
    with capture_logs() as logs:
        job_id = send(box, {"source": SOURCE}).get_json()["id"]
        shown = box.http.get("/v1/jobs").get_data(as_text=True) + box.http.get(f"/v1/jobs/{job_id}").get_data(as_text=True)
        send(box, {"source": "ftp://example.org/?signature=secret"})
    assert "secret" not in shown
    assert "secret" not in str(logs)
