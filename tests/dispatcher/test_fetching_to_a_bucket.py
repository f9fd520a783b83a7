"""Sources on their way into a bucket, which may be away."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.bucket_file_store import BucketFileStore
from core.gcs import CloudStorage, Patience
from core.gs_address import Place
from core.job import JobState
from tests.dispatcher.fetch_box import TALK, FetchBox
from tests.dispatcher.source_server import SourceServer
from tests.gcs_server import CloudServer, Fault, Reply


@pytest.fixture
def bucket_box(
    redis_url: str, tmp_path: Path, ffmpeg: str, bucket: str, connect_storage: Callable[..., CloudStorage]
) -> Iterator[FetchBox]:
    """Files go to a bucket."""
    patience = Patience(connect_s=0.5, silence_s=0.5, tries_s=0.5)
    made = FetchBox(redis_url, tmp_path, ffmpeg, BucketFileStore(connect_storage(patience=patience), Place(bucket, "spillway"), tmp_path))
    yield made
    made.close()


def test_a_source_goes_to_the_bucket_and_nothing_of_it_stays_here(
    bucket_box: FetchBox, cloud: CloudServer, bucket: str, server: SourceServer
) -> None:
    job = bucket_box.settled(bucket_box.fetcher(), bucket_box.submit(server.url()))
    assert (job.state, job.duration_s) == (JobState.QUEUED, 20.0)
    assert cloud.content(bucket, f"spillway/{job.input_key}") == TALK
    assert (cloud.seen("/download/"), bucket_box.left()) == (0, [])


def test_what_is_no_recording_never_travels(bucket_box: FetchBox, cloud: CloudServer, server: SourceServer) -> None:
    server.answers["/talk.wav"] = lambda visit: visit.say(200, b"<html>Please sign in</html>" * 50)
    assert bucket_box.settled(bucket_box.fetcher(), bucket_box.submit(server.url())).state == JobState.FAILED
    assert (cloud.seen("POST"), bucket_box.left()) == (0, [])


def test_a_bucket_that_is_away_is_waited_for_and_costs_no_second_download(
    bucket_box: FetchBox, cloud: CloudServer, server: SourceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.fetching.STORE_PAUSE_S", 0.05)
    cloud.faults = [Fault("POST /upload", 2, Reply(403, {}, b"no"))]
    job = bucket_box.settled(bucket_box.fetcher(), bucket_box.submit(server.url()))
    assert (job.state, job.fetch_failures, len(server.asked)) == (JobState.QUEUED, 0, 1)
    assert (cloud.faults[0].times, bucket_box.left()) == (0, [])


def test_a_fetch_that_waits_for_the_bucket_hears_of_a_cancel(bucket_box: FetchBox, cloud: CloudServer, server: SourceServer) -> None:
    cloud.faults = [Fault("POST /upload", 99, Reply(403, {}, b"no"))]
    fetcher, job_id = bucket_box.fetcher(), bucket_box.submit(server.url())
    bucket_box.stepped(fetcher, lambda: cloud.seen("POST /upload"), "the first try")
    bucket_box.jobs.cancel(job_id)
    bucket_box.stepped(fetcher, lambda: not fetcher._flights, "the thread to end")
    assert bucket_box.left() == []
