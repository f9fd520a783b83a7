"""/metrics as Prometheus reads it: with its own client's parser."""

import signal
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families

from core.errors import StorageUnavailable
from tests.conftest import RedisServer
from tests.service.box import Box
from tests.service.scrape import scraped, value


def test_a_scrape_tells_of_jobs_workers_batches_and_this_process(busy: Box) -> None:
    found = scraped(busy)
    assert value(found, "spillway_job_store_up") == 1
    assert value(found, "spillway_queued_jobs", priority="high") == 1
    assert value(found, "spillway_queued_audio_seconds", priority="high") == 2
    assert value(found, "spillway_jobs_submitted_total") == 3
    assert value(found, "spillway_jobs_ended_total", outcome="succeeded") == 1
    assert value(found, "spillway_job_audio_seconds_total", outcome="failed") == 2
    assert value(found, "spillway_job_failures_total", code="engine_failed") == 1
    assert value(found, "spillway_stage_seconds_sum", stage="asr") == 1.5
    assert value(found, "spillway_stage_seconds_count", stage="vad") == 0
    assert value(found, "spillway_job_wait_seconds_count", priority="normal") == 2
    assert value(found, "spillway_job_wait_seconds_bucket", priority="normal", le="60.0") == 2
    assert value(found, "spillway_batch_windows_total", model="asr") == 50
    assert value(found, "spillway_batch_places_total", model="asr") == 64
    assert value(found, "spillway_batch_seconds_total", model="asr") == 2.5
    assert value(found, "spillway_workers", fit="true") == value(found, "spillway_workers", fit="false") == 1
    assert value(found, "spillway_worker_vram_used_bytes", slot="gpu0") == 6 * 2**30
    assert value(found, "spillway_event_streams_limit") == 2
    assert value(found, "process_resident_memory_bytes") > 0


def test_requests_are_counted_by_the_route_as_written_and_strangers_share_one_series(box: Box) -> None:
    job_id = box.submitted()
    for path in (f"/v1/jobs/{job_id}", "/v1/jobs/0", "/nowhere/1", "/nowhere/2"):
        box.http.get(path, buffered=True)
    box.http.open("/healthz", method="BREW", buffered=True)
    found = scraped(box)
    assert value(found, "spillway_http_requests_total", method="POST", route="/v1/jobs", status="202") == 1
    for status in ("200", "404"):
        assert value(found, "spillway_http_requests_total", method="GET", route="/v1/jobs/<job_id>", status=status) == 1
    assert value(found, "spillway_http_requests_total", method="other", route="none", status="404") == 2
    assert value(found, "spillway_http_requests_total", method="other", route="none", status="405") == 1
    assert value(found, "spillway_http_request_duration_seconds_count", method="GET", route="/v1/jobs/<job_id>") == 2


def test_an_open_event_stream_is_told_of_and_counted_when_it_ends(box: Box) -> None:
    job_id = box.submitted()
    stream = box.http.get(f"/v1/jobs/{job_id}/events", buffered=False)
    events = iter(stream.response)
    next(events)
    assert value(scraped(box), "spillway_event_streams") == value(scraped(box), "spillway_long_requests") == 1
    stream.close()
    found = scraped(box)
    assert value(found, "spillway_event_streams") == 0
    assert value(found, "spillway_http_requests_total", method="GET", route="/v1/jobs/<job_id>/events", status="200") == 1


def test_openmetrics_is_spoken_to_who_asks_for_it(busy: Box) -> None:
    answer = busy.http.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"})
    assert answer.content_type.startswith("application/openmetrics-text")
    families = {family.name for family in openmetrics_families(answer.get_data(as_text=True))}
    assert families == set(scraped(busy))


def test_a_frozen_redis_is_told_of_within_the_time_that_prometheus_waits(redis_server: RedisServer, tmp_path: Path, ffmpeg: str) -> None:
    box = Box(redis_server.url, tmp_path / "files", ffmpeg)
    assert value(scraped(box), "spillway_job_store_up") == 1
    assert redis_server.process is not None
    redis_server.process.send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    try:
        found = scraped(box)
    finally:
        redis_server.process.send_signal(signal.SIGCONT)
        box.close()
    assert time.monotonic() - begun < 10  # Prometheus' scrape_timeout
    assert value(found, "spillway_job_store_up") == 0
    assert value(found, "spillway_file_store_free_bytes") > 0
    assert "spillway_queued_jobs" not in found


def test_a_redis_that_takes_no_writes_is_not_up_and_still_tells_its_figures(redis_server: RedisServer, tmp_path: Path, ffmpeg: str) -> None:
    box = Box(redis_server.url, tmp_path / "files", ffmpeg)
    box.redis.config_set("maxmemory", "1")
    found = scraped(box)
    box.close()
    assert value(found, "spillway_job_store_up") == 0
    assert value(found, "spillway_queued_jobs", priority="normal") == 0


@pytest.mark.parametrize("error", [FileNotFoundError, StorageUnavailable])
def test_a_file_store_that_is_gone_takes_only_its_own_figure_along(
    box: Box, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def refuse() -> int:
        raise error("unmounted")

    monkeypatch.setattr(box.files, "free_bytes", refuse)
    found = scraped(box)
    assert "spillway_file_store_free_bytes" not in found
    assert value(found, "spillway_job_store_up") == 1


def test_totals_never_fall_while_scrapes_and_steps_run_side_by_side(box: Box) -> None:
    def work() -> None:
        for _ in range(20):
            box.submitted()
            box.jobs.succeed(box.claim(), result_key="r")

    worker = threading.Thread(target=work)
    worker.start()
    seen = []
    while worker.is_alive():
        found = scraped(box)
        seen.append([value(found, "spillway_jobs_submitted_total"), value(found, "spillway_jobs_ended_total", outcome="succeeded")])
    worker.join()
    assert len(seen) > 1
    assert all(earlier <= later for before, after in pairwise(seen) for earlier, later in zip(before, after, strict=True))
