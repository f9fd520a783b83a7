"""Watching a job, in this process: frames, ends, and places."""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from werkzeug.test import TestResponse

from core.job import Stage
from core.job_store import Beat
from core.worker_reports import Download, WorkerReport, WorkerState
from service import events
from tests.conftest import RedisServer, wait_for
from tests.service.box import Box, commit


def frames(response: TestResponse) -> Iterator[str]:
    """Each block of the stream, whole."""
    pending = ""
    for chunk in response.response:
        pending += chunk.decode() if isinstance(chunk, bytes) else chunk
        while "\n\n" in pending:
            frame, _, pending = pending.partition("\n\n")
            yield frame


def states(response: TestResponse) -> list[str]:
    jobs = [frame for frame in frames(response) if "event: job" in frame]
    return [json.loads(job.partition("data: ")[2])["state"] for job in jobs]


def test_a_watcher_sees_each_state_and_then_the_end(box: Box) -> None:
    job_id = box.submitted()
    response = box.http.get(f"/v1/jobs/{job_id}/events", buffered=False)
    assert response.content_type.startswith("text/event-stream")
    assert (response.headers["Cache-Control"], response.headers["X-Accel-Buffering"]) == ("no-store", "no")
    seen: list[str] = []
    watcher = threading.Thread(target=lambda: seen.extend(states(response)))
    watcher.start()
    job = box.claim()
    box.jobs.beat([Beat(job.id, job.attempt, Stage.ASR, 0.4)], lease_s=60, renew=False)
    commit(box.jobs, box.files, job)
    watcher.join(timeout=10)
    assert (seen[0], seen[-1]) == ("queued", "succeeded")
    response.close()


def test_a_job_that_has_ended_is_one_event(box: Box) -> None:
    job_id = box.submitted()
    box.jobs.cancel(job_id)
    with box.http.get(f"/v1/jobs/{job_id}/events", buffered=False) as response:
        (job,) = frames(response)
    head, _, data = job.partition("data: ")
    assert head == f"retry: 2000\nevent: job\nid: {box.jobs.get(job_id).version}\n"
    assert json.loads(data) == box.http.get(f"/v1/jobs/{job_id}").get_json()


def test_who_comes_back_after_the_last_event_is_told_to_stop(box: Box) -> None:
    job_id = box.submitted()
    last = {"Last-Event-ID": str(box.jobs.get(job_id).version)}
    box.jobs.cancel(job_id)
    with box.http.get(f"/v1/jobs/{job_id}/events", headers=last, buffered=False) as response:
        assert len(list(frames(response))) == 1  # the end was not heard yet
    last = {"Last-Event-ID": str(box.jobs.get(job_id).version)}
    assert box.http.get(f"/v1/jobs/{job_id}/events", headers=last).status_code == 204


def test_a_watcher_hears_that_the_job_was_deleted(box: Box) -> None:
    job_id = box.submitted()
    with box.http.get(f"/v1/jobs/{job_id}/events", buffered=False) as response:
        stream = frames(response)
        assert "event: job" in next(stream)
        box.http.delete(f"/v1/jobs/{job_id}")
        assert list(stream) == ["event: deleted\ndata: {}"]


def test_a_waiting_job_is_told_when_it_moves_up(box: Box) -> None:
    first, second = box.submitted(), box.submitted()
    with box.http.get(f"/v1/jobs/{second}/events", buffered=False) as response:
        stream = frames(response)
        assert '"queue_position":1' in next(stream)
        box.http.post(f"/v1/jobs/{first}/cancel")
        assert '"queue_position":0' in next(stream)


def test_a_waiting_job_is_told_how_far_the_models_are(box: Box) -> None:
    def comes(done_bytes: int) -> None:
        said = Download(done_bytes, 100, "model.bin")
        report = WorkerReport("gpu0", False, "", "cuda", "large-v2", state=WorkerState.DOWNLOADING, downloading=said)
        box.jobs.report_worker(report, ttl_s=60)

    comes(1)
    with box.http.get(f"/v1/jobs/{box.submitted()}/events", buffered=False) as response:
        stream = frames(response)
        assert '"waiting_for":"models","downloading":{"done_bytes":1,' in next(stream)
        comes(2)
        assert '"waiting_for":"models","downloading":{"done_bytes":2,' in next(stream)


def test_a_quiet_stream_has_a_heartbeat(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.0)
    with box.http.get(f"/v1/jobs/{box.submitted()}/events", buffered=False) as response:
        stream = frames(response)
        assert ["event: job" in next(stream), next(stream)] == [True, ": heartbeat"]


def test_a_stopping_service_ends_its_streams(box: Box) -> None:
    with box.http.get(f"/v1/jobs/{box.submitted()}/events", buffered=False) as response:
        stream = frames(response)
        next(stream)
        box.is_stopping = True
        assert len(list(stream)) <= 2


def test_a_stream_ends_when_redis_goes_away(redis_server: RedisServer, tmp_path: Path, ffmpeg: str) -> None:
    lonely = Box(redis_server.url, tmp_path / "files", ffmpeg)
    with lonely.http.get(f"/v1/jobs/{lonely.submitted()}/events", buffered=False) as response:
        stream = frames(response)
        next(stream)
        redis_server.stop()
        assert len(list(stream)) <= 2
    lonely.close()


def test_as_many_streams_as_places_then_a_hint_to_poll(box: Box) -> None:
    job_id = box.submitted()
    with ExitStack() as streams:
        for _ in range(2):
            streams.enter_context(box.http.get(f"/v1/jobs/{job_id}/events", buffered=False))
        refused = box.http.get(f"/v1/jobs/{job_id}/events")
        assert (refused.status_code, refused.get_json()["code"]) == (503, "service_busy")
        assert "Retry-After" in refused.headers
        assert "poll" in refused.get_json()["detail"]
        assert box.http.get("/healthz").status_code == 200
    wait_for(lambda: _opens(box, job_id), "the places to be given back")


def test_a_stream_that_is_refused_takes_no_place(box: Box) -> None:
    for _ in range(5):
        assert box.http.get(f"/v1/jobs/{'0' * 32}/events").status_code == 404
    assert _opens(box, box.submitted())


def _opens(box: Box, job_id: str) -> bool:
    with box.http.get(f"/v1/jobs/{job_id}/events", buffered=False) as response:
        return response.status_code == 200
