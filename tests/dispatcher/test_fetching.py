"""From a job with a source to a pending job: real Redis, real ffmpeg, real connections."""

import time
from collections.abc import Callable

import pytest

from core.job import JobState
from core.job_store import JobStore, Runner
from dispatcher.fetching import MOST_FAILURES, pause_after
from dispatcher.landing import Landing
from tests.conftest import wait_for
from tests.dispatcher.fetch_box import TALK, Dam, FetchBox, wav
from tests.dispatcher.source_server import SourceServer, Visit, file


def test_a_source_becomes_a_pending_job(box: FetchBox, server: SourceServer) -> None:
    job = box.settled(box.fetcher(), box.submit(server.url(), clip_start=5))
    assert (job.state, job.duration_s, job.input_bytes, job.filename) == (JobState.QUEUED, 20.0, len(TALK), "talk.wav")
    assert box.left() == [job.input_key]
    assert box.files.read(job.input_key) == TALK
    assert (box.jobs.backlog().queued_jobs, box.jobs.backlog().queued_audio_s) == (1, 15.0)
    assert box.jobs.claim(Runner("slot", "boot"), lease_s=60, fits_s=1e6)


REFUSED: dict[str, tuple[Callable[[Visit], None], str, str]] = {
    "a page": (lambda visit: visit.say(200, b"<html>Please sign in</html>" * 50), "invalid_media", "a web page, not a recording"),
    "a page behind blanks": (lambda visit: visit.say(200, b"\r\n\t<!DOCTYPE HTML>\n"), "invalid_media", "a web page, not a recording"),
    "nothing": (lambda visit: visit.say(200), "invalid_media", ""),
    "a WAV without samples": (lambda visit: visit.say(200, wav(0)), "invalid_media", ""),
    "too long": (lambda visit: visit.say(200, wav(26)), "too_large", "lasts 26.000 s"),
    "too many bytes": (lambda visit: visit.say(200, bytes(2 * 10**6)), "source_too_large", "1000000 bytes"),
    "gone": (lambda visit: visit.say(410), "source_unreachable", "answered 410 Gone"),
    "a playlist": (lambda visit: visit.say(200, b"ffconcat version 1.0\nfile /etc/passwd\n"), "invalid_media", "not a recording"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_recording_fails_the_job_at_once_and_leaves_nothing(box: FetchBox, server: SourceServer, case: str) -> None:
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
def test_a_source_that_may_not_be_reached_is_refused(box: FetchBox, source: str, said: str) -> None:
    job = box.settled(box.fetcher(), box.submit(source))
    assert job.error is not None
    assert (job.state, job.error.code) == (JobState.FAILED, "source_refused")
    assert said in job.error.message


def test_a_clip_that_lies_behind_the_end_fails(box: FetchBox, server: SourceServer) -> None:
    job = box.settled(box.fetcher(), box.submit(server.url(), clip_start=21))
    assert job.error is not None
    assert job.error.code == "invalid_request"
    assert box.left() == []


def failing(times: int) -> Callable[[Visit], None]:
    left = iter(range(times))
    return lambda visit: visit.say(503) if next(left, None) is not None else file(TALK)(visit)


def test_a_server_that_recovers_is_asked_again(box: FetchBox, server: SourceServer) -> None:
    server.answers["/talk.wav"] = failing(MOST_FAILURES - 1)
    job = box.settled(box.fetcher(), box.submit(server.url()))
    assert (job.state, job.duration_s, job.fetch_failures) == (JobState.QUEUED, 20.0, MOST_FAILURES - 1)
    assert box.left() == [job.input_key]


def test_a_server_that_does_not_recover_fails_the_job(box: FetchBox, server: SourceServer) -> None:
    server.answers["/talk.wav"] = failing(100)
    job = box.settled(box.fetcher(), box.submit(server.url()))
    assert job.error is not None
    assert (job.state, job.error.code) == (JobState.FAILED, "source_unreachable")
    assert job.error.message == f"the source could not be fetched in {MOST_FAILURES} tries: at last its server answered 503"
    assert len(server.asked) == MOST_FAILURES
    assert box.left() == []


def test_a_server_that_says_when_to_come_back_is_left_alone_until_then(box: FetchBox, server: SourceServer) -> None:
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


def test_the_second_try_brings_only_the_rest(box: FetchBox, server: SourceServer) -> None:
    server.answers["/talk.wav"] = file(TALK, cut_at=400_000)
    job = box.settled(box.fetcher(), box.submit(server.url()))
    assert (job.state, job.fetch_failures) == (JobState.QUEUED, 1)
    first, second = server.asked
    assert "range" not in first.headers
    assert 0 < int(second.headers["range"].removeprefix("bytes=").rstrip("-")) <= 400_000
    assert box.files.read(job.input_key) == TALK
    assert box.left() == [job.input_key]


def test_half_a_source_is_dropped_when_its_job_ends_meanwhile(box: FetchBox, server: SourceServer) -> None:
    server.answers["/talk.wav"] = file(TALK, cut_at=400_000)
    fetcher, job_id = box.fetcher(pause_s=60), box.submit(server.url())
    box.stepped(fetcher, lambda: box.jobs.get(job_id).fetch_failures, "the first failure")
    assert len(box.left()) == 1
    box.jobs.cancel(job_id)
    box.stepped(fetcher, lambda: box.left() == [], "the half to be dropped")


@pytest.mark.parametrize("end", [JobStore.cancel, JobStore.delete])
def test_a_cancel_or_delete_ends_a_slow_fetch_within_seconds(
    box: FetchBox, server: SourceServer, dam: Dam, end: Callable[[JobStore, str], object]
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


def test_a_job_deleted_before_its_file_began_leaves_nothing(box: FetchBox) -> None:
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


def test_a_try_that_brought_much_is_no_failure(box: FetchBox, server: SourceServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.fetching.PROGRESS_BYTES", 60_000)
    monkeypatch.setattr("dispatcher.fetching.RESUME_PAUSE_S", 0.0)
    server.answers["/talk.wav"] = file(TALK, part_bytes=90_000)
    job = box.settled(box.fetcher(), box.submit(server.url()))
    assert (job.state, job.fetch_failures) == (JobState.QUEUED, 0)
    assert len(server.asked) > MOST_FAILURES + 1
    assert box.files.read(job.input_key) == TALK


def test_a_step_waits_for_no_server_and_so_many_are_fetched_at_once(box: FetchBox, server: SourceServer, dam: Dam) -> None:
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


def test_slow_sources_of_one_key_hold_up_no_other_key(box: FetchBox, server: SourceServer, dam: Dam) -> None:
    fetcher = box.fetcher(most_at_once=4)
    slow = [box.submit(server.url("/slow.wav"), key_id="alice") for _ in range(6)]
    quick = box.submit(server.url(), key_id="bob")
    assert box.settled(fetcher, quick).state == JobState.QUEUED
    assert len(fetcher._flights) == 2
    dam.opened.set()
    for job_id in slow:
        assert box.settled(fetcher, job_id).state == JobState.QUEUED


def test_without_keys_all_places_are_one_callers(box: FetchBox, server: SourceServer, dam: Dam) -> None:
    fetcher = box.fetcher(most_at_once=3)
    jobs = [box.submit(server.url("/slow.wav")) for _ in range(3)]
    fetcher.step()
    assert len(fetcher._flights) == 3
    dam.opened.set()
    for job_id in jobs:
        assert box.settled(fetcher, job_id).state == JobState.QUEUED


def test_a_full_disk_is_waited_for(box: FetchBox, server: SourceServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.fetching.FULL_DISK_PAUSE_S", 0.05)
    room = iter([0, 0, 0])
    monkeypatch.setattr(box.files, "free_bytes", lambda: next(room, 10**12))
    job = box.settled(box.fetcher(), box.submit(server.url()))
    assert (job.state, job.fetch_failures) == (JobState.QUEUED, 0)
    assert box.left() == [job.input_key]


def test_whatever_breaks_the_job_gets_an_answer(box: FetchBox) -> None:
    def broken(_source: str, _landing: Landing, _check: Callable[[], None]) -> None:
        raise RuntimeError("secret detail")

    box.schemes["http"] = broken
    job = box.settled(box.fetcher(), box.submit("http://example.org/"))
    assert job.error is not None
    assert (job.state, job.error.code, job.fetch_failures) == (JobState.FAILED, "internal_error", MOST_FAILURES)
    assert "secret" not in job.error.message


def test_another_kind_of_source_comes_by_its_own_fetch(box: FetchBox) -> None:
    def fetch_gs(source: str, landing: Landing, check: Callable[[], None]) -> None:
        check()
        landing.begin()
        landing.write(TALK if source == "gs://bucket/talk.wav" else b"")

    box.schemes["gs"] = fetch_gs
    job = box.settled(box.fetcher(), box.submit("gs://bucket/talk.wav"))
    assert (job.state, job.duration_s) == (JobState.QUEUED, 20.0)
