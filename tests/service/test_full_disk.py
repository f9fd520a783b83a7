"""The service on a real disk that is full."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.file_store import SPARE_BYTES
from core.job import JobState
from core.local_file_store import LocalFileStore
from tests.disk import fill, make_room, small_disk
from tests.service.box import Box, run_pending, wav

MB = 1024**2


class Hopeful(LocalFileStore):
    """Believes that there is room, as a store does that another program fills meanwhile."""

    def free_bytes(self) -> int:
        return 10 * SPARE_BYTES


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 4) as mounted:
        yield mounted


@pytest.fixture
def box(redis_url: str, disk: Path, ffmpeg: str) -> Iterator[Box]:
    made = Box(redis_url, disk, ffmpeg, files=Hopeful(disk))
    yield made
    made.close()


def problem_of_full_disk(box: Box, content: bytes) -> str:
    response = box.submit(content)
    assert (response.status_code, response.mimetype) == (507, "application/problem+json")
    problem = response.get_json()
    assert problem["code"] == "disk_full"
    return str(problem["detail"])


@pytest.mark.parametrize("seconds", [0.1, 10], ids=["at its end, from a buffer", "in its middle"])
def test_an_upload_that_finds_no_room_is_told_what_to_do_and_leaves_nothing(box: Box, disk: Path, seconds: float) -> None:
    earlier = box.submitted()
    before = box.stored_files()
    fill(disk)
    detail = problem_of_full_disk(box, wav(seconds))
    assert detail == "the disk is full: try again once jobs have been deleted"
    make_room(disk)
    assert (box.stored_files(), box.jobs.backlog().queued_jobs) == (before, 1)
    assert run_pending(box.jobs, box.files)
    assert box.jobs.get(earlier).state == JobState.SUCCEEDED


def test_uploads_are_taken_again_once_there_is_room(box: Box, disk: Path) -> None:
    fill(disk)
    for _ in range(2):
        problem_of_full_disk(box, wav(1))
    make_room(disk)
    box.submitted()


def test_jobs_are_read_and_deleted_while_the_disk_is_full(box: Box, disk: Path) -> None:
    job_id = box.submitted()
    run_pending(box.jobs, box.files)
    fill(disk)
    assert "Good morning." in box.http.get(f"/v1/jobs/{job_id}/transcript?format=txt").get_data(as_text=True)
    assert box.http.delete(f"/v1/jobs/{job_id}").status_code == 204
    make_room(disk)
    assert box.stored_files() == []


def test_an_upload_is_refused_before_it_comes_where_it_cannot_fit(redis_url: str, disk: Path, ffmpeg: str) -> None:
    box = Box(redis_url, disk, ffmpeg)
    problem_of_full_disk(box, wav(1))
    assert box.stored_files() == []
    assert box.http.get("/readyz").get_json()["reasons"] == ["the file store's disk is full"]
    box.close()
