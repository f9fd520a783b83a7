"""From a job with a source to a pending job: real Redis, real ffmpeg, real connections, and processes that are killed."""

import io
import signal
import threading
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from core.bucket_file_store import BucketFileStore
from core.errors import StoreUnavailable
from core.fetches import Fetches
from core.file_store import FileStore
from core.gcs import CloudStorage, Patience
from core.gs_address import Place
from core.job import Job, JobOptions, JobState, NewJob, Stage
from core.job_store import JobStore, Runner
from core.leased import Lease
from core.local_file_store import LocalFileStore
from core.media import Ffmpeg
from core.redis_steps import connect
from dispatcher.fetching import MOST_FAILURES, Fetcher, Limits, Stores, pause_after
from dispatcher.guard import Guard
from dispatcher.http_fetch import HttpFetch
from dispatcher.landing import Fetch, Landing
from tests.conftest import RedisServer, wait_for
from tests.dispatcher.process import running_dispatcher
from tests.dispatcher.source_server import SourceServer, Visit, file
from tests.gcs_server import CloudServer, Fault, Reply


def wav(seconds: float) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as recording:
        recording.setparams((1, 2, 16_000, 0, "NONE", ""))
        recording.writeframes(bytes(2 * round(seconds * 16_000)))
    return content.getvalue()


TALK = wav(20)  # 640 kB


class Box:
    """A dispatcher's fetcher with all that it works with, stepped by the test."""

    def __init__(self, redis_url: str, folder: Path, ffmpeg: str, files: FileStore | None = None) -> None:
        self.redis = connect(redis_url, retries=0)
        self.jobs, self.folder = JobStore(self.redis), folder
        self.fetches, self.files = Fetches(self.redis, self.jobs), files or LocalFileStore(folder)
        self._ffmpeg, self.made = Ffmpeg(ffmpeg), list[Fetcher]()
        http = HttpFetch(Guard(("127.0.0.1/32",)), max_bytes=10**6)
        self.schemes: dict[str, Fetch] = {"http": http, "https": http}

    def fetcher(self, owner: str = "me", *, lease_s: float = 60.0, most_at_once: int = 4, pause_s: float = 0.0) -> Fetcher:
        limits = Limits(most_at_once, 10**6, 25.0, lease_s / 4)
        stores = Stores(self.fetches, self.jobs, self.files)
        lease = Lease(owner, lease_s, 3)
        self.made.append(Fetcher(stores, self._ffmpeg, self.schemes, lease, limits=limits, pause_s=lambda _failures: pause_s))
        return self.made[-1]

    def submit(self, source: str, **options: object) -> str:
        job = NewJob(id=uuid4().hex, source=source, filename="talk.wav", options=JobOptions.model_validate(options))
        return self.jobs.submit(job, max_queued=1000)[0].id

    def stepped(self, fetcher: Fetcher, is_so: Callable[[], object], what: str) -> None:
        def step() -> object:
            fetcher.step()
            return is_so()

        wait_for(step, what)

    def settled(self, fetcher: Fetcher, job_id: str) -> Job:
        """The job once it is pending or has ended."""
        self.stepped(fetcher, lambda: self.jobs.get(job_id).stage != Stage.FETCHING, "the fetch to end")
        return self.jobs.get(job_id)

    def left(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    def close(self) -> None:
        for fetcher in self.made:
            fetcher.close()
        self.redis.close()


@pytest.fixture
def box(redis_url: str, tmp_path: Path, ffmpeg: str) -> Iterator[Box]:
    made = Box(redis_url, tmp_path / "files", ffmpeg)
    yield made
    made.close()


@pytest.fixture
def server() -> Iterator[SourceServer]:
    with SourceServer({"/talk.wav": file(TALK)}) as running:
        yield running


class Dam:
    """An answer that gives half the recording and then waits for the test."""

    def __init__(self) -> None:
        self.is_reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, visit: Visit) -> None:
        visit.head(200, Content_Length=str(len(TALK)))
        visit.wfile.write(TALK[:300_000])
        self.is_reached.set()
        while not self.opened.wait(0.05):
            visit.wfile.write(b"")
        visit.wfile.write(TALK[300_000:])


@pytest.fixture
def dam(server: SourceServer) -> Iterator[Dam]:
    built = Dam()
    server.answers["/slow.wav"] = built
    yield built
    built.opened.set()


def test_a_source_becomes_a_pending_job(box: Box, server: SourceServer) -> None:
    job = box.settled(box.fetcher(), box.submit(server.url(), clip_start=5))
    assert (job.state, job.duration_s, job.input_bytes, job.filename) == (JobState.QUEUED, 20.0, len(TALK), "talk.wav")
    assert box.left() == [job.input_key]
    assert box.files.read(job.input_key) == TALK
    assert (box.jobs.backlog().queued_jobs, box.jobs.backlog().queued_audio_s) == (1, 15.0)
    assert box.jobs.claim(Runner("slot", "boot"), lease_s=60, fits_s=1e6)


REFUSED: dict[str, tuple[Callable[[Visit], None], str, str]] = {
    "a page": (lambda visit: visit.say(200, b"<html>Please sign in</html>" * 50), "invalid_media", "not a recording"),
    "nothing": (lambda visit: visit.say(200), "invalid_media", ""),
    "a WAV without samples": (lambda visit: visit.say(200, wav(0)), "invalid_media", ""),
    "too long": (lambda visit: visit.say(200, wav(26)), "too_large", "lasts 26 s"),
    "too many bytes": (lambda visit: visit.say(200, bytes(2 * 10**6)), "source_too_large", "1000000 bytes"),
    "gone": (lambda visit: visit.say(410), "source_unreachable", "answered 410 Gone"),
    "a playlist": (lambda visit: visit.say(200, b"ffconcat version 1.0\nfile /etc/passwd\n"), "invalid_media", "not a recording"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_recording_fails_the_job_at_once_and_leaves_nothing(box: Box, server: SourceServer, case: str) -> None:
    answer, code, said = REFUSED[case]
    server.answers["/talk.wav"] = answer
    job = box.settled(box.fetcher(), box.submit(server.url()))
    assert job.error is not None
    assert (job.state, job.error.code) == (JobState.FAILED, code)
    assert said in job.error.message
    assert str(box.folder) not in job.error.message
    assert (box.left(), len(server.asked)) == ([], 1)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("http://10.0.0.1/a.wav", "not one of the public internet"),
        ("http://localhost/a.wav", "not a name of the public internet"),
        ("gs://bucket/a.wav", "gs:// sources cannot be fetched by this version"),
        ("http://[::1/a.wav", "not a URL"),
    ],
)
def test_a_source_that_may_not_be_reached_is_refused(box: Box, source: str, said: str) -> None:
    job = box.settled(box.fetcher(), box.submit(source))
    assert job.error is not None
    assert (job.state, job.error.code) == (JobState.FAILED, "source_refused")
    assert said in job.error.message


def test_a_clip_that_lies_behind_the_end_fails(box: Box, server: SourceServer) -> None:
    job = box.settled(box.fetcher(), box.submit(server.url(), clip_start=21))
    assert job.error is not None
    assert job.error.code == "invalid_request"
    assert box.left() == []


def failing(times: int) -> Callable[[Visit], None]:
    left = iter(range(times))
    return lambda visit: visit.say(503) if next(left, None) is not None else file(TALK)(visit)


def test_a_server_that_recovers_is_asked_again(box: Box, server: SourceServer) -> None:
    server.answers["/talk.wav"] = failing(MOST_FAILURES - 1)
    job = box.settled(box.fetcher(), box.submit(server.url()))
    assert (job.state, job.duration_s, job.fetch_failures) == (JobState.QUEUED, 20.0, MOST_FAILURES - 1)
    assert box.left() == [job.input_key]


def test_a_server_that_does_not_recover_fails_the_job(box: Box, server: SourceServer) -> None:
    server.answers["/talk.wav"] = failing(100)
    job = box.settled(box.fetcher(), box.submit(server.url()))
    assert job.error is not None
    assert (job.state, job.error.code) == (JobState.FAILED, "source_unreachable")
    assert job.error.message == f"the source could not be fetched in {MOST_FAILURES} tries: at last its server answered 503"
    assert len(server.asked) == MOST_FAILURES
    assert box.left() == []


def test_a_server_that_says_when_to_come_back_is_left_alone_until_then(box: Box, server: SourceServer) -> None:
    server.answers["/talk.wav"] = lambda visit: visit.say(429, Retry_After="3600")
    fetcher, job_id = box.fetcher(), box.submit(server.url())
    box.stepped(fetcher, lambda: box.jobs.get(job_id).fetch_failures, "the first failure")
    due = box.redis.zscore("spillway:fetching", job_id) / 1000 - box.jobs.clock_s()
    assert 1700 < due <= 1800


def test_pauses_grow_and_end_within_the_hour() -> None:
    pauses = [pause_after(failures) for failures in range(MOST_FAILURES - 1)]
    assert pauses == sorted(pauses)
    assert 7.5 <= pauses[0] <= 12.5
    assert sum(pauses) < 3600
    assert len({pause_after(2) for _ in range(20)}) > 1


def test_the_second_try_brings_only_the_rest(box: Box, server: SourceServer) -> None:
    server.answers["/talk.wav"] = file(TALK, cut_at=400_000)
    job = box.settled(box.fetcher(), box.submit(server.url()))
    assert (job.state, job.fetch_failures) == (JobState.QUEUED, 1)
    first, second = server.asked
    assert "range" not in first.headers
    assert 0 < int(second.headers["range"].removeprefix("bytes=").rstrip("-")) <= 400_000
    assert box.files.read(job.input_key) == TALK
    assert box.left() == [job.input_key]


def test_half_a_source_is_dropped_when_its_job_ends_meanwhile(box: Box, server: SourceServer) -> None:
    server.answers["/talk.wav"] = file(TALK, cut_at=400_000)
    fetcher, job_id = box.fetcher(pause_s=60), box.submit(server.url())
    box.stepped(fetcher, lambda: box.jobs.get(job_id).fetch_failures, "the first failure")
    assert len(box.left()) == 1
    box.jobs.cancel(job_id)
    box.stepped(fetcher, lambda: box.left() == [], "the half to be dropped")


@pytest.mark.parametrize("end", [JobStore.cancel, JobStore.delete])
def test_a_cancel_or_delete_ends_a_slow_fetch_within_seconds(
    box: Box, server: SourceServer, dam: Dam, end: Callable[[JobStore, str], object]
) -> None:
    fetcher, job_id = box.fetcher(), box.submit(server.url("/slow.wav"))
    fetcher.step()
    assert dam.is_reached.wait(5)
    end(box.jobs, job_id)
    box.files.delete_job(job_id) if end is JobStore.delete else None
    began = time.monotonic()
    box.stepped(fetcher, lambda: not fetcher._flights, "the thread to end")
    assert time.monotonic() - began < 3
    wait_for(lambda: box.left() == [], "what had come to be forgotten")
    assert not (box.folder / "jobs" / job_id).exists()


def test_a_job_deleted_before_its_file_began_leaves_nothing(box: Box) -> None:
    def fetch_late(_source: str, landing: Landing, _check: Callable[[], None]) -> None:
        box.jobs.delete(job_id)
        box.files.delete_job(job_id)
        landing.begin()
        landing.write(TALK)

    box.schemes["http"] = fetch_late
    fetcher, job_id = box.fetcher(), box.submit("http://example.org/")
    fetcher.step()
    box.stepped(fetcher, lambda: not fetcher._flights, "the thread to end")
    wait_for(lambda: box.left() == [], "what had come to be forgotten")
    wait_for(lambda: not (box.folder / "jobs" / job_id).exists(), "its folder to go")


def test_a_try_that_brought_much_is_no_failure(box: Box, server: SourceServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.fetching.PROGRESS_BYTES", 60_000)
    monkeypatch.setattr("dispatcher.fetching.RESUME_PAUSE_S", 0.0)
    server.answers["/talk.wav"] = file(TALK, part_bytes=90_000)
    job = box.settled(box.fetcher(), box.submit(server.url()))
    assert (job.state, job.fetch_failures) == (JobState.QUEUED, 0)
    assert len(server.asked) > MOST_FAILURES + 1
    assert box.files.read(job.input_key) == TALK


def test_a_step_waits_for_no_server_and_so_many_are_fetched_at_once(box: Box, server: SourceServer, dam: Dam) -> None:
    fetcher = box.fetcher(most_at_once=2)
    jobs = [box.submit(server.url("/slow.wav")) for _ in range(3)]
    assert dam.is_reached.wait(0) is False
    for _ in range(5):
        began = time.monotonic()
        fetcher.step()
        assert time.monotonic() - began < 1
    wait_for(lambda: len(server.asked) == 2, "two to be asked for")
    dam.opened.set()
    for job_id in jobs:
        assert box.settled(fetcher, job_id).state == JobState.QUEUED
    assert len(server.asked) == 3


def test_a_full_disk_is_waited_for(box: Box, server: SourceServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.fetching.FULL_DISK_PAUSE_S", 0.05)
    room = iter([0, 0, 0])
    monkeypatch.setattr(box.files, "free_bytes", lambda: next(room, 10**12))
    job = box.settled(box.fetcher(), box.submit(server.url()))
    assert (job.state, job.fetch_failures) == (JobState.QUEUED, 0)
    assert box.left() == [job.input_key]


@pytest.fixture
def bucket_box(redis_url: str, tmp_path: Path, ffmpeg: str, bucket: str, connect_storage: Callable[..., CloudStorage]) -> Iterator[Box]:
    """Files go to a bucket."""
    patience = Patience(connect_s=0.5, silence_s=0.5, tries_s=0.5)
    made = Box(redis_url, tmp_path, ffmpeg, BucketFileStore(connect_storage(patience=patience), Place(bucket, "spillway"), tmp_path))
    yield made
    made.close()


def test_a_source_goes_to_the_bucket_and_nothing_of_it_stays_here(
    bucket_box: Box, cloud: CloudServer, bucket: str, server: SourceServer
) -> None:
    job = bucket_box.settled(bucket_box.fetcher(), bucket_box.submit(server.url()))
    assert (job.state, job.duration_s) == (JobState.QUEUED, 20.0)
    assert cloud.content(bucket, f"spillway/{job.input_key}") == TALK
    assert (cloud.seen("/download/"), bucket_box.left()) == (0, [])


def test_what_is_no_recording_never_travels(bucket_box: Box, cloud: CloudServer, server: SourceServer) -> None:
    server.answers["/talk.wav"] = lambda visit: visit.say(200, b"<html>Please sign in</html>" * 50)
    assert bucket_box.settled(bucket_box.fetcher(), bucket_box.submit(server.url())).state == JobState.FAILED
    assert (cloud.seen("POST"), bucket_box.left()) == (0, [])


def test_a_bucket_that_is_away_is_waited_for_and_costs_no_second_download(
    bucket_box: Box, cloud: CloudServer, server: SourceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.fetching.STORE_PAUSE_S", 0.05)
    cloud.faults = [Fault("POST /upload", 2, Reply(403, {}, b"no"))]
    job = bucket_box.settled(bucket_box.fetcher(), bucket_box.submit(server.url()))
    assert (job.state, job.fetch_failures, len(server.asked)) == (JobState.QUEUED, 0, 1)
    assert (cloud.faults[0].times, bucket_box.left()) == (0, [])


def test_a_fetch_that_waits_for_the_bucket_hears_of_a_cancel(bucket_box: Box, cloud: CloudServer, server: SourceServer) -> None:
    cloud.faults = [Fault("POST /upload", 99, Reply(403, {}, b"no"))]
    fetcher, job_id = bucket_box.fetcher(), bucket_box.submit(server.url())
    bucket_box.stepped(fetcher, lambda: cloud.seen("POST /upload"), "the first try")
    bucket_box.jobs.cancel(job_id)
    bucket_box.stepped(fetcher, lambda: not fetcher._flights, "the thread to end")
    assert bucket_box.left() == []


def test_whatever_breaks_the_job_gets_an_answer(box: Box) -> None:
    def broken(_source: str, _landing: Landing, _check: Callable[[], None]) -> None:
        raise RuntimeError("secret detail")

    box.schemes["http"] = broken
    job = box.settled(box.fetcher(), box.submit("http://example.org/"))
    assert job.error is not None
    assert (job.state, job.error.code, job.fetch_failures) == (JobState.FAILED, "internal_error", MOST_FAILURES)
    assert "secret" not in job.error.message


def test_another_kind_of_source_comes_by_its_own_fetch(box: Box) -> None:
    def fetch_gs(source: str, landing: Landing, check: Callable[[], None]) -> None:
        check()
        landing.begin()
        landing.write(TALK if source == "gs://bucket/talk.wav" else b"")

    box.schemes["gs"] = fetch_gs
    job = box.settled(box.fetcher(), box.submit("gs://bucket/talk.wav"))
    assert (job.state, job.duration_s) == (JobState.QUEUED, 20.0)


def test_a_fetcher_that_stops_hands_its_fetch_back_at_once(box: Box, server: SourceServer, dam: Dam) -> None:
    first, job_id = box.fetcher("first"), box.submit(server.url("/slow.wav"))
    first.step()
    assert dam.is_reached.wait(5)
    first.close()
    assert box.left() == []
    dam.opened.set()
    job = box.settled(box.fetcher("second"), job_id)
    assert (job.state, job.fetch, job.fetch_failures) == (JobState.QUEUED, 2, 0)
    assert box.redis.hget(f"spillway:job:{job_id}", "fetch_losses") == "0"


def test_a_fetcher_that_fell_silent_is_overtaken_and_its_work_dropped(box: Box, server: SourceServer, dam: Dam) -> None:
    silent, job_id = box.fetcher("silent", lease_s=0.1), box.submit(server.url("/slow.wav"))
    silent.step()
    assert dam.is_reached.wait(5)
    time.sleep(0.15)  # its lease, by Redis' own clock
    next_one = box.fetcher("next")
    next_one.step()
    assert box.jobs.get(job_id).fetch == 2
    dam.opened.set()
    job = box.settled(next_one, job_id)
    box.stepped(silent, lambda: not silent._flights, "the first to hear of it")
    assert (job.state, box.jobs.backlog().queued_jobs) == (JobState.QUEUED, 1)
    wait_for(lambda: box.left() == [job.input_key], "what came too late to be forgotten")


def test_what_was_fetched_while_redis_was_away_is_not_lost(redis_server: RedisServer, tmp_path: Path, ffmpeg: str) -> None:
    box, dam = Box(redis_server.url, tmp_path / "files", ffmpeg), Dam()
    with SourceServer({"/slow.wav": dam}) as server:
        fetcher, job_id = box.fetcher(), box.submit(server.url("/slow.wav"))
        fetcher.step()
        assert dam.is_reached.wait(5)
        redis_server.stop()
        dam.opened.set()
        wait_for(lambda: fetcher._flights[job_id].outcome, "the fetch to end")
        with pytest.raises(StoreUnavailable):
            fetcher.step()
        redis_server.start()
        assert box.settled(fetcher, job_id).state == JobState.QUEUED
        assert len(server.asked) == 1
    box.close()


def test_a_dispatcher_killed_in_the_middle_of_a_fetch_costs_a_lease_and_doubles_nothing(
    box: Box, server: SourceServer, dam: Dam, redis_url: str, ffmpeg: str
) -> None:
    job_id = box.submit(server.url("/slow.wav"))
    with running_dispatcher(redis_url, box.folder, ffmpeg) as first:
        assert dam.is_reached.wait(30)
        first.kill()
    box.redis.delete("spillway:leader")  # its term ends 10 s later, which is not what is looked at here
    dam.opened.set()
    with running_dispatcher(redis_url, box.folder, ffmpeg) as second:
        wait_for(lambda: box.jobs.get(job_id).stage is None, "the job to be pending")
        second.send_signal(signal.SIGTERM)
        assert second.wait(timeout=20) == 0
    job = box.jobs.get(job_id)
    assert (job.state, job.fetch, job.duration_s, len(server.asked)) == (JobState.QUEUED, 2, 20.0, 2)
    assert box.jobs.backlog().queued_jobs == 1
    assert box.files.read(job.input_key) == TALK


def test_a_dispatcher_that_is_told_to_stop_does_not_wait_for_a_slow_server(
    box: Box, server: SourceServer, dam: Dam, redis_url: str, ffmpeg: str
) -> None:
    job_id = box.submit(server.url("/slow.wav"))
    with running_dispatcher(redis_url, box.folder, ffmpeg) as process:
        assert dam.is_reached.wait(30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    assert box.fetches.claim(Lease("next", 60, 3)) is not None
    assert box.jobs.get(job_id).fetch_failures == 0
    assert box.left() == []
