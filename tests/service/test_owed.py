"""Webhooks and outputs as a client asks for them and sees what became of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from werkzeug.test import TestResponse

from core.leased import Lease
from core.outbox import Answer, DeliveryState
from dispatcher.webhooks import event
from tests.service.box import Box, commit

HOOK = "https://example.org/hook?token=secret"
SOURCE = "https://example.org/talk.mp3"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def signing(redis_url: str, tmp_path: Path, ffmpeg: str) -> Iterator[Box]:
    made = Box(redis_url, tmp_path / "files", ffmpeg, webhook_secret=(SECRET,))
    yield made
    made.close()


def send(box: Box, **document: Any) -> TestResponse:
    body = json.dumps({"source": SOURCE, **document})
    return box.http.post("/v1/jobs", data=body, content_type="application/json")


def deliveries(box: Box, job_id: str) -> list[dict[str, Any]]:
    response = box.http.get(f"/v1/jobs/{job_id}/deliveries")
    assert response.status_code == 200
    return list(response.get_json()["deliveries"])


def test_a_callback_is_owed_from_the_submit_on(signing: Box) -> None:
    uploaded = signing.submitted(callback_url=HOOK)
    fetched = send(signing, callback_url=HOOK).get_json()["id"]
    in_a_form = signing.http.post("/v1/jobs", data={"source": SOURCE, "callback_url": HOOK}, content_type="multipart/form-data").get_json()[
        "id"
    ]
    for job_id in (uploaded, fetched, in_a_form):
        assert deliveries(signing, job_id) == [
            {
                "id": f"{job_id}:1",
                "kind": "webhook",
                "url": "https://example.org/hook",
                "state": "pending",
                "attempts": [],
                "next_try": None,
            }
        ]
    assert signing.jobs.get(uploaded).deliveries == ({"kind": "webhook", "target": HOOK, "host": "example.org"},)


def test_without_a_callback_nothing_is_owed(signing: Box) -> None:
    for job_id in (signing.submitted(), signing.submitted(callback_url=""), send(signing, callback_url=None).get_json()["id"]):
        assert deliveries(signing, job_id) == []


def test_what_became_of_a_callback_is_told_try_by_try(signing: Box) -> None:
    job_id = signing.submitted(callback_url=HOOK)
    commit(signing.jobs, signing.files, signing.claim())
    (waiting,) = deliveries(signing, job_id)
    assert (waiting["state"], waiting["next_try"][-1]) == ("pending", "Z")
    first = signing.outbox.claim(Lease("dispatcher", 60, 3))
    assert first is not None
    signing.outbox.retry(first, Answer(status=500, error="the receiver did not take it"), pause_s=0, patience_s=60)
    again = signing.outbox.claim(Lease("dispatcher", 60, 3))
    assert again is not None
    assert deliveries(signing, job_id)[0]["next_try"] is None
    signing.outbox.end(again, DeliveryState.DELIVERED, Answer(status=204))
    (done,) = deliveries(signing, job_id)
    assert (done["state"], done["next_try"]) == ("delivered", None)
    assert [(attempt["status"], attempt["error"]) for attempt in done["attempts"]] == [(500, "the receiver did not take it"), (204, None)]
    assert all(attempt["at"].endswith("Z") for attempt in done["attempts"])


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_an_event_shows_the_job_as_the_api_does(signing: Box, is_cancelled: bool) -> None:
    job_id = signing.submitted(callback_url=HOOK, language="en", metadata='{"order": 7}')
    if is_cancelled:
        signing.jobs.cancel(job_id)
    else:
        commit(signing.jobs, signing.files, signing.claim())
    shown, data = signing.http.get(f"/v1/jobs/{job_id}").get_json(), json.loads(event(signing.jobs.get(job_id)))["data"]
    del shown["options"]["metadata"]  # it stands beside them
    assert {name: shown[name] for name in data if name != "left_out"} == {name: data[name] for name in data if name != "left_out"}
    assert {"state", "error", "warnings", "transcript", "source"} < set(data)


def test_the_deliveries_of_no_job_are_not_found(signing: Box) -> None:
    response = signing.http.get("/v1/jobs/unknown/deliveries")
    assert (response.status_code, response.get_json()["code"]) == (404, "job_not_found")


REFUSED = {
    "no URL": ("example.org/hook", "must be a URL that begins with https:// or http://"),
    "another scheme": ("gs://bucket/hook", "must be a URL that begins with"),
    "no text": (7, "must be a URL"),
    "nothing, but no text": ([], "must be a URL"),
    "no": (False, "must be a URL"),
    "a password": ("https://me:secret@example.org/hook", "holds a user name or password"),
    "spaces": ("https://example.org/a hook", "holds spaces"),
    "no host": ("https:///hook", "must be a URL that begins with"),
}


@pytest.mark.parametrize(("url", "said"), REFUSED.values(), ids=REFUSED)
def test_a_callback_that_cannot_be_meant_is_refused_by_name(signing: Box, url: object, said: str) -> None:
    response = send(signing, callback_url=url)
    problem = response.get_json()
    assert (response.status_code, problem["code"], problem["field"]) == (422, "invalid_request", "callback_url")
    assert said in problem["detail"]
    assert "secret" not in problem["detail"]


def test_a_refused_callback_leaves_nothing_of_the_upload(signing: Box) -> None:
    assert signing.submit(callback_url="ftp://example.org").status_code == 422
    assert (signing.stored_files(), signing.jobs.page().jobs) == ([], [])


def test_without_a_secret_to_sign_with_a_callback_is_refused_and_the_setting_is_named(box: Box) -> None:
    response = box.submit(callback_url=HOOK)
    assert (response.status_code, response.get_json()["field"]) == (422, "callback_url")
    assert "SPILLWAY_WEBHOOK_SECRET" in response.get_json()["detail"]
    assert box.stored_files() == []


def test_the_same_key_with_another_callback_is_a_conflict(signing: Box) -> None:
    first = signing.submit(key="k", callback_url=HOOK)
    assert signing.submit(key="k", callback_url=HOOK).get_json()["id"] == first.get_json()["id"]
    assert signing.submit(key="k", callback_url=HOOK + "2").status_code == 409


def test_the_query_of_a_callback_is_shown_and_logged_nowhere(signing: Box) -> None:
    with capture_logs() as logs:
        job_id = signing.submitted(callback_url=HOOK)
        paths = (f"/v1/jobs/{job_id}", "/v1/jobs", f"/v1/jobs/{job_id}/deliveries")
        shown = "".join(signing.http.get(path).get_data(as_text=True) for path in paths)
    assert "secret" not in shown
    assert "secret" not in str(logs)


def test_the_documentation_names_the_callback(box: Box) -> None:
    content = box.http.get("/openapi.json").get_json()["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]
    assert all("callback_url" in form["schema"]["properties"] for form in content.values())


# Outputs

PREFIX = "gs://bucket/talks/2026"


@pytest.fixture
def in_a_bucket(redis_url: str, tmp_path: Path, ffmpeg: str) -> Iterator[Box]:
    """Its files are on disk all the same: nothing here asks the bucket."""
    made = Box(redis_url, tmp_path / "files", ffmpeg, file_store="gs://bucket/spillway")
    yield made
    made.close()


def test_an_output_is_owed_from_the_submit_on_and_needs_no_secret(box: Box) -> None:
    uploaded, fetched = box.submitted(output=PREFIX), send(box, output=PREFIX).get_json()["id"]
    for job_id in (uploaded, fetched):
        (owed,) = deliveries(box, job_id)
        assert (owed["kind"], owed["url"], owed["state"]) == ("output", PREFIX, "pending")
        assert box.jobs.get(job_id).deliveries == ({"kind": "output", "target": PREFIX, "host": "bucket"},)


def test_a_job_may_owe_a_webhook_and_an_output(signing: Box) -> None:
    job_id = signing.submitted(callback_url=HOOK, output=PREFIX)
    assert [(owed["id"], owed["kind"]) for owed in deliveries(signing, job_id)] == [(f"{job_id}:1", "webhook"), (f"{job_id}:2", "output")]


def test_the_same_key_with_another_output_is_a_conflict(box: Box) -> None:
    box.submit(key="k", output=PREFIX)
    assert box.submit(key="k", output=PREFIX + "/others").status_code == 409


REFUSED_PREFIXES = {
    "a URL": ("https://storage.googleapis.com/bucket/talks", "write gs://bucket/name"),
    "no bucket": ("gs://", "write gs://bucket/name"),
    "a bucket that cannot be": ("gs://Bucket/talks", "write gs://bucket/name"),
    "a line break": ("gs://bucket/a\nb", "write gs://bucket/name"),
    "no text": (["gs://bucket"], "must be a prefix such as gs://bucket/talks"),
    "too long a name": ("gs://bucket/" + "ü" * 500, "longer than 960 bytes"),
    "where jobs are": ("gs://bucket/spillway/jobs", "keeps files of its own"),
    "a job of ours": ("gs://bucket/spillway/jobs/abc/attempts/1/", "keeps files of its own"),
    "where uploads are": ("gs://bucket/spillway/uploads", "keeps files of its own"),
}


@pytest.mark.parametrize(("prefix", "said"), REFUSED_PREFIXES.values(), ids=REFUSED_PREFIXES)
def test_an_output_that_cannot_be_meant_is_refused_by_name(in_a_bucket: Box, prefix: object, said: str) -> None:
    response = send(in_a_bucket, output=prefix)
    problem = response.get_json()
    assert (response.status_code, problem["code"], problem["field"]) == (422, "invalid_request", "output")
    assert said in problem["detail"]


@pytest.mark.parametrize("prefix", ["gs://bucket", "gs://bucket/spillway", "gs://bucket/spillway/jobs-of-ours", "gs://other/spillway/jobs"])
def test_the_rest_of_our_own_bucket_is_open_to_outputs(in_a_bucket: Box, prefix: str) -> None:
    assert send(in_a_bucket, output=prefix).status_code == 202


def test_a_refused_output_leaves_nothing_of_the_upload(box: Box) -> None:
    assert box.submit(output="bucket/talks").status_code == 422
    assert (box.stored_files(), box.jobs.page().jobs) == ([], [])


def test_the_documentation_names_the_output(box: Box) -> None:
    content = box.http.get("/openapi.json").get_json()["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]
    assert all("output" in form["schema"]["properties"] for form in content.values())
