"""What clients see of how long things are kept, and what is left when they delete."""

from datetime import datetime
from typing import Any

import pytest

from core.file_store import fetched_key, product_key, result_key
from core.job import JobOptions, NewJob
from core.retention import Kept, Retention
from tests.service.box import Box, run_pending

DAY_S = 86400.0


def seen(box: Box, job_id: str) -> dict[str, Any]:
    answer = box.http.get(f"/v1/jobs/{job_id}")
    assert answer.status_code == 200
    return dict(answer.get_json())


def test_an_ended_job_says_when_it_will_be_deleted(box: Box) -> None:
    job_id = box.submitted()
    assert seen(box, job_id)["expires_at"] is None
    run_pending(box.jobs, box.files)
    job = seen(box, job_id)
    kept = datetime.fromisoformat(job["expires_at"]) - datetime.fromisoformat(job["finished_at"])
    assert kept.total_seconds() == 30 * DAY_S
    assert box.http.get("/v1/jobs").get_json()["jobs"][0]["expires_at"] == job["expires_at"]
    events = box.http.get(f"/v1/jobs/{job_id}/events").get_data(as_text=True)
    assert job["expires_at"] in events


def test_where_jobs_are_kept_for_ever_none_says_when_it_ends(redis_url: str, tmp_path: Any, ffmpeg: str) -> None:
    box = Box(redis_url, tmp_path, ffmpeg, keep_results_s="forever")
    job_id = box.submitted()
    run_pending(box.jobs, box.files)
    assert seen(box, job_id)["expires_at"] is None
    box.close()


def test_a_job_that_has_expired_is_there_no_more(box: Box) -> None:
    job_id = box.submitted()
    run_pending(box.jobs, box.files)
    Retention(box.redis).let_go(Kept.RESULTS, [job_id])
    answer = box.http.get(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.get_json()["code"]) == (404, "job_not_found")
    assert "its time was over" in answer.get_json()["detail"]


def test_the_same_idempotency_key_makes_a_new_job_once_the_first_has_expired(box: Box) -> None:
    first = box.submit(key="again").get_json()["id"]
    run_pending(box.jobs, box.files)
    Retention(box.redis).let_go(Kept.RESULTS, [first])
    again = box.submit(key="again")
    assert (again.status_code, again.get_json()["id"] == first) == (202, False)


def test_a_deleted_job_takes_everything_of_it_along(box: Box) -> None:
    job = NewJob(id="a1", source="https://example.org/a.wav", filename="a.wav", options=JobOptions())
    box.jobs.submit(job, max_queued=10)
    for key in (fetched_key("a1", 1), fetched_key("a1", 2), product_key("a1", 1, "asr"), result_key("a1", 1), result_key("a1", 2)):
        box.files.write(key, b"x")
    assert box.http.delete("/v1/jobs/a1").status_code == 204
    assert box.stored_files() == []


@pytest.mark.parametrize("damage", [lambda content: content[:-100], lambda content: content.replace(b"Good", b"Bad!"), lambda _: b""])
@pytest.mark.parametrize("form", ["json", "srt"])
def test_a_transcript_that_is_not_what_was_written_is_not_handed_out(box: Box, damage: Any, form: str) -> None:
    job_id = box.submitted()
    run_pending(box.jobs, box.files)
    path = box.folder / result_key(job_id, 1)
    path.write_bytes(damage(path.read_bytes()))
    answer = box.http.get(f"/v1/jobs/{job_id}/transcript?format={form}")
    assert (answer.status_code, answer.get_json()["code"]) == (409, "transcript_not_ready")
    assert "damaged" in answer.get_json()["detail"]
