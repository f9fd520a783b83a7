"""Every route, through Flask's test client and a real Redis."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from core.file_store import result_key
from core.job import JobFailure, Stage
from core.job_store import Beat, Kept, Runner
from core.render import MEDIA_TYPES
from core.transcript import Transcript
from core.worker_reports import Download, WorkerReport, WorkerState
from service.probes import Readiness
from service.views import JobPage, QueueView
from tests.conftest import RedisServer
from tests.service.box import TRANSCRIPT, Box, commit

NOBODY = "0" * 32


def worker(slot: str = "gpu0", fit: bool = True) -> WorkerReport:
    state = WorkerState.FIT if fit else WorkerState.UNFIT
    return WorkerReport(slot, fit, "" if fit else "no GPU", device="cuda", asr_model="tiny", state=state)


def downloading(done_bytes: int = 1_200_000_000) -> WorkerReport:
    return replace(worker(fit=False), state=WorkerState.DOWNLOADING, downloading=Download(done_bytes, 3_100_000_000, "large-v2, model.bin"))


def succeeded(box: Box) -> str:
    job_id = box.submitted()
    commit(box.jobs, box.files, box.claim())
    return job_id


def test_a_job_shows_what_it_is_at(box: Box) -> None:
    job_id = box.submitted()
    job = box.claim()
    box.jobs.beat([Beat(job.id, job.attempt, Stage.ASR, 0.4)], lease_s=60, renew=False)
    view = box.http.get(f"/v1/jobs/{job_id}").get_json()
    assert (view["state"], view["stage"], view["progress"], view["attempt"], view["losses"]) == ("running", "asr", 0.4, 1, 0)
    assert (view["queue_position"], view["estimated_start"], view["finished_at"]) == (None, None, None)
    assert view["started_at"] >= view["created_at"]


def test_an_ended_job_says_where_its_transcript_is(box: Box) -> None:
    job_id = succeeded(box)
    view = box.http.get(f"/v1/jobs/{job_id}").get_json()
    assert (view["state"], view["progress"]) == ("succeeded", 1.0)
    assert box.http.get(view["transcript"]).get_json() == json.loads(TRANSCRIPT.model_dump_json())


def test_a_failed_job_says_why(box: Box) -> None:
    job_id = box.submitted()
    box.jobs.fail(box.claim(), JobFailure(code="invalid_media", message="the recording is broken"))
    view = box.http.get(f"/v1/jobs/{job_id}").get_json()
    assert view["error"] == {"code": "invalid_media", "message": "the recording is broken"}
    response = box.http.get(f"/v1/jobs/{job_id}/transcript")
    assert response.status_code == 409
    assert "the recording is broken" in response.get_json()["detail"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "/transcript"),
        ("GET", "/events"),
        ("POST", "/cancel"),
        ("DELETE", ""),
    ],
)
@pytest.mark.parametrize("job_id", [NOBODY, "a:b", "%00", "..%2f..%2fetc"])
def test_a_job_that_is_not_there_is_a_404(box: Box, method: str, path: str, job_id: str) -> None:
    response = box.http.open(f"/v1/jobs/{job_id}{path}", method=method)
    assert response.status_code == 404
    assert response.content_type == "application/problem+json"


def test_pages_hold_every_job_once_newest_first(box: Box) -> None:
    ids = [box.submitted() for _ in range(5)]
    seen, cursor = [], None
    while True:
        page = box.http.get("/v1/jobs", query_string={"limit": 2, **({"cursor": cursor} if cursor else {})}).get_json()
        seen += [job["id"] for job in page["jobs"]]
        if (cursor := page["next"]) is None:
            break
    assert sorted(seen) == sorted(ids)
    assert len(seen) == 5


def test_a_cursor_whose_job_was_deleted_is_refused_by_name(box: Box) -> None:
    for _ in range(3):
        box.submitted()
    cursor = box.http.get("/v1/jobs?limit=1").get_json()["next"]
    box.http.delete(f"/v1/jobs/{cursor}")
    response = box.http.get(f"/v1/jobs?cursor={cursor}")
    assert (response.status_code, response.get_json()["field"]) == (422, "cursor")


def test_a_job_whose_record_is_broken_says_so_and_can_be_deleted(box: Box) -> None:
    broken, good = box.submitted(), box.submitted()
    box.redis.hset(f"spillway:job:{broken}", "fixed", "not JSON")
    response = box.http.get(f"/v1/jobs/{broken}")
    assert (response.status_code, response.get_json()["code"]) == (500, "record_broken")
    assert "delete it, and send the recording again" in response.get_json()["detail"]
    assert [job["id"] for job in box.http.get("/v1/jobs").get_json()["jobs"]] == [good]
    assert box.http.delete(f"/v1/jobs/{broken}").status_code == 204
    assert box.http.get(f"/v1/jobs/{broken}").status_code == 404
    assert box.stored_files() == [f"jobs/{good}/input"]


def test_a_list_can_be_of_one_state(box: Box) -> None:
    ended, waiting = succeeded(box), box.submitted()
    assert [job["id"] for job in box.http.get("/v1/jobs?state=queued").get_json()["jobs"]] == [waiting]
    assert [job["id"] for job in box.http.get("/v1/jobs?state=succeeded").get_json()["jobs"]] == [ended]


@pytest.mark.parametrize(
    ("query", "field"),
    [("limit=0", "limit"), ("limit=201", "limit"), ("limit=x", "limit"), ("state=done", "state"), ("offset=3", "offset"),
     (f"cursor={NOBODY}", "cursor")],
)  # fmt: skip
def test_a_wrong_query_is_refused_by_name(box: Box, query: str, field: str) -> None:
    response = box.http.get(f"/v1/jobs?{query}")
    assert (response.status_code, response.get_json()["field"]) == (422, field)


def test_an_unknown_parameter_is_refused_with_where_to_look(box: Box) -> None:
    assert box.http.get("/v1/jobs?offset=3").get_json()["detail"] == "unknown parameter 'offset': /docs shows those of this address"


@pytest.mark.parametrize(
    ("form", "content_type", "said"),
    [
        ("json", "application/json", '"schema":"spillway.transcript.v1"'),
        ("txt", "text/plain; charset=utf-8", "SPEAKER_00: Good morning."),
        ("srt", "application/x-subrip; charset=utf-8", "00:00:00,000 --> 00:00:01,000"),
        ("vtt", "text/vtt; charset=utf-8", "WEBVTT"),
        ("tsv", "text/tab-separated-values; charset=utf-8", "0\t1000\tSPEAKER_00"),
        ("rttm", "text/plain; charset=utf-8", "SPEAKER audio 1 0.000 1.000"),
    ],
)
def test_a_transcript_is_read_in_every_format(box: Box, form: str, content_type: str, said: str) -> None:
    response = box.http.get(f"/v1/jobs/{succeeded(box)}/transcript?format={form}")
    assert (response.status_code, response.content_type) == (200, content_type)
    assert said in response.get_data(as_text=True)


def test_an_unknown_format_is_refused(box: Box) -> None:
    assert box.http.get(f"/v1/jobs/{NOBODY}/transcript?format=docx").get_json()["field"] == "format"


def test_a_job_that_failed_for_its_speakers_alone_still_gives_its_words(box: Box) -> None:
    job_id = box.submitted(on_diarization_failure="fail")
    for _ in range(2):
        job = box.claim()
        key = box.files.write(result_key(job.id, job.attempt), TRANSCRIPT.model_dump_json().encode()).key
        box.jobs.retry(job, JobFailure(code="engine_failed", message="no speakers"), max_failures=2, kept=Kept(key, "", ()))
    view = box.http.get(f"/v1/jobs/{job_id}").get_json()
    assert (view["state"], view["error"]["code"]) == ("failed", "engine_failed")
    assert box.http.get(view["transcript"]).get_json() == json.loads(TRANSCRIPT.model_dump_json())


def test_a_transcript_that_is_not_there_yet_says_so(box: Box) -> None:
    job_id = box.submitted()
    waiting = box.http.get(f"/v1/jobs/{job_id}/transcript")
    assert (waiting.status_code, waiting.get_json()["code"]) == (409, "transcript_not_ready")
    assert "waits" in waiting.get_json()["detail"]
    box.claim()
    assert "running" in box.http.get(f"/v1/jobs/{job_id}/transcript").get_json()["detail"]
    box.http.post(f"/v1/jobs/{job_id}/cancel")
    box.jobs.end_cancelled(box.jobs.get(job_id))
    assert "cancelled" in box.http.get(f"/v1/jobs/{job_id}/transcript").get_json()["detail"]


def test_a_transcript_whose_file_is_gone_says_so(box: Box) -> None:
    job_id = succeeded(box)
    box.files.delete(result_key(job_id, 1))
    response = box.http.get(f"/v1/jobs/{job_id}/transcript")
    assert (response.status_code, response.get_json()["code"]) == (409, "transcript_not_ready")
    assert "its file is no longer in the file store; send the recording again" in response.get_json()["detail"]


def test_cancelling_a_waiting_job_ends_it(box: Box) -> None:
    response = box.http.post(f"/v1/jobs/{box.submitted()}/cancel")
    assert (response.status_code, response.get_json()["state"]) == (200, "cancelled")


def test_cancelling_a_running_job_is_under_way(box: Box) -> None:
    job_id = box.submitted()
    box.claim()
    response = box.http.post(f"/v1/jobs/{job_id}/cancel")
    assert (response.status_code, response.get_json()["state"]) == (202, "running")
    assert response.get_json()["cancel_requested"]


def test_cancelling_an_ended_job_changes_nothing(box: Box) -> None:
    response = box.http.post(f"/v1/jobs/{succeeded(box)}/cancel")
    assert (response.status_code, response.get_json()["state"]) == (200, "succeeded")


def test_deleting_leaves_neither_record_nor_files(box: Box) -> None:
    job_id = succeeded(box)
    assert len(box.stored_files()) == 2
    assert box.http.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert box.stored_files() == []
    assert box.http.get(f"/v1/jobs/{job_id}").status_code == 404


def test_the_queue_tells_of_backlog_and_workers(box: Box) -> None:
    box.submitted()
    box.submitted()
    box.jobs.report_worker(worker(), ttl_s=60)
    box.jobs.report_worker(worker("gpu1", fit=False), ttl_s=60)
    assert box.jobs.claim(Runner("gpu1", "boot"), lease_s=60, fits_s=1e6)
    queue = box.http.get("/v1/queue").get_json()
    assert (queue["queued_jobs"], queue["queued_audio_s"], queue["running_jobs"]) == (1, 2.0, 1)
    assert queue["estimated_wait_s"] is None
    assert queue["workers"][1] == {
        "slot": "gpu1", "fit": False, "state": "unfit", "reason": "no GPU", "downloading": None, "device": "cuda", "model": "tiny",
        "jobs_in_flight": 1,
    }  # fmt: skip


def test_a_start_is_estimated_from_backlog_and_measured_speed(box: Box) -> None:
    box.jobs.report_worker(worker(), ttl_s=60)
    box.redis.hset("spillway:speed", mapping={"audio_ms": 20_000, "run_ms": 10_000})
    first, second = box.submitted(), box.submitted()
    views = [box.http.get(f"/v1/jobs/{job_id}").get_json() for job_id in (first, second)]
    assert [view["queue_position"] for view in views] == [0, 1]
    assert views[0]["estimated_start"] < views[1]["estimated_start"]
    assert box.http.get("/v1/queue").get_json()["estimated_wait_s"] == pytest.approx(2.0)  # 4 s of audio at twice real time


def test_without_a_fit_worker_no_start_is_promised(box: Box) -> None:
    box.jobs.report_worker(worker(fit=False), ttl_s=60)
    box.redis.hset("spillway:speed", mapping={"audio_ms": 20_000, "run_ms": 10_000})
    assert box.http.get(f"/v1/jobs/{box.submitted()}").get_json()["estimated_start"] is None


@pytest.mark.parametrize(
    ("reports", "waiting_for"),
    [
        ([], "worker"),
        ([worker(fit=False)], "worker"),
        ([replace(worker(fit=False), state=WorkerState.MODELS_MISSING)], "worker"),
        ([replace(worker(fit=False), state=WorkerState.LOADING)], "models"),
        ([worker("gpu1", fit=False), downloading()], "models"),
        ([worker("gpu1"), downloading()], "turn"),
    ],
)
def test_a_queued_job_says_what_it_waits_for(box: Box, reports: list[WorkerReport], waiting_for: str) -> None:
    for report in reports:
        box.jobs.report_worker(report, ttl_s=60)
    job_id = box.submitted()
    (listed,) = box.http.get("/v1/jobs").get_json()["jobs"]
    assert [listed["waiting_for"], box.http.get(f"/v1/jobs/{job_id}").get_json()["waiting_for"]] == [waiting_for] * 2
    box.claim()
    assert box.http.get(f"/v1/jobs/{job_id}").get_json()["waiting_for"] is None


def test_a_download_is_told_with_its_bytes(box: Box) -> None:
    box.jobs.report_worker(downloading(), ttl_s=60)
    at = {"done_bytes": 1_200_000_000, "total_bytes": 3_100_000_000, "what": "large-v2, model.bin"}
    assert box.http.get(f"/v1/jobs/{box.submitted()}").get_json()["downloading"] == at
    assert box.http.get("/v1/queue").get_json()["workers"][0]["downloading"] == at
    ready = box.http.get("/readyz")
    assert (ready.status_code, ready.get_json()["ready"]) == (200, True)
    assert ready.get_json()["models"] == {"state": "downloading", "done_bytes": 1_200_000_000, "total_bytes": 3_100_000_000}


@pytest.mark.parametrize(
    ("states", "models"),
    [
        ([WorkerState.STARTING], "unknown"),
        ([WorkerState.UNFIT, WorkerState.MODELS_MISSING], "missing"),
        ([WorkerState.MODELS_MISSING, WorkerState.DOWNLOADING], "downloading"),
        ([WorkerState.DOWNLOADING, WorkerState.LOADING], "ready"),
        ([WorkerState.FIT], "ready"),
    ],
)
def test_readiness_tells_of_the_models_what_the_best_worker_says(box: Box, states: list[WorkerState], models: str) -> None:
    for number, state in enumerate(states):
        box.jobs.report_worker(replace(worker(f"gpu{number}", fit=False), state=state), ttl_s=60)
    assert box.http.get("/readyz").get_json()["models"]["state"] == models


def test_the_documentation_is_whole_without_the_internet(box: Box) -> None:
    assert box.http.get("/docs").headers["Location"] == "/docs/swagger"
    page = box.http.get("/docs/swagger")
    assert b"http://" not in page.data
    assert b"https://" not in page.data
    for asset in ("js/swagger-ui-bundle.js", "css/swagger-ui.css"):
        with box.http.get(f"/docs/swagger/{asset}") as response:
            assert response.status_code == 200
    assert box.http.get("/").get_json()["docs"] == "/docs"


def test_every_route_of_the_api_is_documented(box: Box) -> None:
    described = box.http.get("/openapi.json").get_json()["paths"]
    app: Flask = box.http.application
    api = {rule.rule.replace("<", "{").replace(">", "}") for rule in app.url_map.iter_rules() if rule.rule.startswith("/v1")}
    assert api <= set(described)
    assert set(described["/v1/jobs"]["post"]["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    for path in described.values():
        for operation in path.values():
            assert "application/problem+json" in operation["responses"]["422"]["content"]


def test_no_two_shapes_of_the_documentation_share_a_name(box: Box) -> None:
    api = box.http.get("/openapi.json").get_json()["components"]["schemas"]
    shapes = {kind.__name__: kind.model_json_schema(mode="serialization") for kind in (Transcript, Readiness, QueueView, JobPage)}
    for shape in shapes.values():
        for name, described in shape["$defs"].items():
            assert set(api[name].get("properties", ())) == set(described.get("properties", ())), name


def test_every_format_of_a_transcript_is_documented(box: Box) -> None:
    operation = box.http.get("/openapi.json").get_json()["paths"]["/v1/jobs/{job_id}/transcript"]["get"]
    assert set(operation["responses"]["200"]["content"]) == {given.partition(";")[0] for given in MEDIA_TYPES.values()}
    assert operation["responses"]["200"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Transcript"}


@pytest.fixture
def lonely_box(redis_server: RedisServer, tmp_path: Path, ffmpeg: str) -> Iterator[Box]:
    """A box whose Redis has gone."""
    box = Box(redis_server.url, tmp_path / "files", ffmpeg)
    redis_server.stop()
    yield box
    box.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/jobs"),
        ("GET", f"/v1/jobs/{NOBODY}"),
        ("GET", f"/v1/jobs/{NOBODY}/transcript"),
        ("GET", f"/v1/jobs/{NOBODY}/events"),
        ("POST", f"/v1/jobs/{NOBODY}/cancel"),
        ("DELETE", f"/v1/jobs/{NOBODY}"),
        ("GET", "/v1/queue"),
    ],
)
def test_without_redis_every_route_says_to_come_back(lonely_box: Box, method: str, path: str) -> None:
    response = lonely_box.http.open(path, method=method)
    assert (response.status_code, response.get_json()["code"]) == (503, "store_unavailable")
    assert int(response.headers["Retry-After"]) > 0


def test_without_redis_the_process_is_alive_but_not_ready(lonely_box: Box) -> None:
    assert lonely_box.http.get("/healthz").get_json() == {"status": "alive"}
    ready = lonely_box.http.get("/readyz")
    assert (ready.status_code, ready.get_json()["reasons"]) == (503, ["Redis does not answer"])
    assert "spillway_job_store_up 0.0" in lonely_box.http.get("/metrics").get_data(as_text=True)


def test_ready_means_redis_and_room(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = {"state": "unknown", "done_bytes": None, "total_bytes": None}
    assert box.http.get("/readyz").get_json() == {"ready": True, "reasons": [], "models": unknown}
    assert box.stored_files() == []
    monkeypatch.setattr(box.files, "free_bytes", lambda: 1)
    assert box.http.get("/readyz").get_json()["reasons"] == ["the file store's disk is full"]


def test_a_file_store_that_is_gone_is_not_ready(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> Any:
        raise PermissionError("read-only")

    monkeypatch.setattr(box.files, "start", refuse)
    assert box.http.get("/readyz").get_json()["reasons"] == ["the file store cannot be written"]
