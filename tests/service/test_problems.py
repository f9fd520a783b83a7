"""Errors, headers and who may call at all."""

import inspect

import pytest
from structlog.testing import capture_logs

from core import errors
from service.problems import GENERIC, STATUSES
from tests.service.box import Box

# Raised where models run, where sources are fetched, or before the process serves; kept in a job's record, never answered to a request.
NOT_OVER_HTTP = {
    errors.OutOfMemory, errors.EngineFailed, errors.ModelMissing, errors.ModelSourceAway, errors.SettingsError,
    errors.SourceRefused, errors.SourceUnreachable, errors.SourceTooLarge, errors.InputLost,
}  # fmt: skip
ABSTRACT = {errors.SpillwayError, errors.CallerError, errors.OurError}


def test_every_error_that_can_reach_a_client_has_a_status() -> None:
    tree = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.SpillwayError)}
    assert tree - ABSTRACT - NOT_OVER_HTTP == set(STATUSES)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/jobs/", 404, "not_found"),
        ("PUT", "/v1/jobs", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("GET", "/docs/swagger/../../templates/__init__.py", 404, "not_found"),
    ],
)
def test_what_is_not_there_is_a_problem_like_any_other(box: Box, method: str, path: str, status: int, code: str) -> None:
    response = box.http.open(path, method=method)
    problem = response.get_json()
    assert (response.status_code, response.content_type) == (status, "application/problem+json")
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["title"]
    assert problem["detail"]


def test_a_405_says_what_is_allowed(box: Box) -> None:
    response = box.http.put("/v1/jobs")
    assert response.headers["Allow"] == "GET, HEAD, OPTIONS, POST"
    assert response.get_json()["detail"] == "this address takes GET, HEAD, OPTIONS, POST"


def test_a_bug_is_logged_and_shows_nothing_internal(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(box.jobs, "backlog", broken)
    with capture_logs() as logs:
        response = box.http.get("/v1/queue")
    assert (response.status_code, response.get_json()["detail"]) == (500, GENERIC)
    assert "secret" not in response.get_data(as_text=True)
    assert any(line["event"] == "request_broke" and "secret detail" in str(line["exc_info"]) for line in logs)


def test_an_error_of_ours_without_a_status_is_a_500(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise errors.OurError("there is no ffmpeg")

    monkeypatch.setattr(box.jobs, "backlog", broken)
    assert box.http.get("/v1/queue").get_json()["detail"] == GENERIC


def test_each_request_is_one_line_with_its_job_and_without_its_query(box: Box) -> None:
    job_id = box.submitted()
    with capture_logs() as logs:
        box.http.get(f"/v1/jobs/{job_id}/transcript?format=txt").close()
    (line,) = [line for line in logs if line["event"] == "request"]
    assert line.pop("seconds") >= 0
    assert line == {
        "event": "request", "log_level": "info", "method": "GET", "route": "/v1/jobs/<job_id>/transcript", "status": 409,
        "job_id": job_id, "code": "transcript_not_ready",
    }  # fmt: skip


def test_a_submission_logs_its_job_but_not_its_filename(box: Box) -> None:
    with capture_logs() as logs, box.submit(filename="secret.wav") as response:
        job = response.get_json()
    (line,) = [line for line in logs if line["event"] == "request"]
    assert line["job_id"] == job["id"]
    assert "secret" not in str(logs)


@pytest.mark.parametrize("path", ["/v1/jobs", "/docs/swagger", "/nowhere", "/healthz"])
def test_every_answer_carries_the_security_headers(box: Box, path: str) -> None:
    headers = box.http.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cache-Control"] == "no-store"
    assert "frame-ancestors" in headers["Content-Security-Policy"] or path.startswith("/docs")
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "192.168.1.2", "[::2]:80", "[", "a b"])
def test_a_name_that_is_not_loopback_reaches_nothing(box: Box, host: str) -> None:
    response = box.http.get("/v1/jobs", headers={"Host": host})
    assert (response.status_code, response.content_type) == (403, "application/problem+json")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8000", "127.0.0.2", "localhost:9", "[::1]:8000"])
def test_loopback_goes_by_all_its_names(box: Box, host: str) -> None:
    assert box.http.get("/v1/jobs", headers={"Host": host}).status_code == 200


def test_pages_of_other_sites_may_not_call(box: Box) -> None:
    assert box.http.post("/v1/jobs", headers={"Origin": "https://evil.example"}).status_code == 403
    assert box.http.get("/v1/jobs", headers={"Origin": "null"}).status_code == 403
    assert box.http.get("/v1/jobs", headers={"Origin": "http://localhost"}).status_code == 200


def test_a_body_where_none_is_taken_is_not_read(box: Box) -> None:
    response = box.http.post(f"/v1/jobs/{box.submitted()}/cancel", data=b"x" * 100_000)
    assert response.status_code == 200
