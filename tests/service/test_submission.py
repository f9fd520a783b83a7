"""Taking jobs in, and every way of not taking them."""

import io
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from core.job import JobState
from core.partial_file import PartialFile
from core.urls import display_name
from tests.conftest import RedisServer
from tests.service.box import Box, wav

BOUNDARY = "frontier"


def form(*parts: bytes, end: bytes = b"--frontier--\r\n") -> bytes:
    return b"".join(b"--frontier\r\n" + part + b"\r\n" for part in parts) + end


def file_part(content: bytes, name: str = "file", filename: str = "a.wav") -> bytes:
    return f'Content-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'.encode() + content


def field_part(name: str, content: bytes) -> bytes:
    return f'Content-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + content


def post(box: Box, body: bytes, content_type: str = f"multipart/form-data; boundary={BOUNDARY}", **headers: str) -> Any:
    length = len(body)
    return box.http.post("/v1/jobs", input_stream=io.BytesIO(body), content_length=length, content_type=content_type, headers=headers)


def test_a_recording_becomes_a_queued_job_and_one_wake_up(box: Box) -> None:
    response = box.submit(language="en", num_speakers="2", diarize="true", metadata='{"order": 7}', clip_end="1.5")
    job = response.get_json()
    assert response.status_code == 202
    assert response.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert (job["state"], job["filename"], job["duration_s"], job["queue_position"]) == ("queued", "talk.wav", 2.0, 0)
    assert job["metadata"] == {"order": 7}
    assert (job["options"]["num_speakers"], job["options"]["diarize"], job["options"]["clip_end"]) == (2, True, 1.5)
    assert job["transcript"] is None
    assert job["created_at"].endswith("Z")
    assert box.stored_files() == [f"jobs/{job['id']}/input"]
    assert box.files.read(f"jobs/{job['id']}/input") == wav(2)
    assert box.wakeups == 1


def test_a_recording_is_synced_with_its_name_and_that_of_its_folder(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    assert box.submit().status_code == 202
    assert len(synced) == 3


def test_options_may_stand_before_and_after_the_file(box: Box) -> None:
    response = post(box, form(field_part("language", b"de"), file_part(wav(1)), field_part("align", b"false")))
    assert response.status_code == 202
    assert response.get_json()["options"] | {"language": "de", "align": False} == response.get_json()["options"]


def test_an_empty_field_counts_as_absent(box: Box) -> None:
    assert box.submit(language="", metadata="").get_json()["options"]["language"] is None


REFUSED_FIELDS = [
    ({"langauge": "en"}, 422, "unknown_option", "langauge", "did you mean 'language'"),
    ({"speaker_labels": "true"}, 422, "unknown_option", "speaker_labels", "did you mean 'diarize'"),
    ({"nonsense": "en"}, 422, "unknown_option", "nonsense", "a recording comes as `file` or its URL as `source`; the options are language"),
    ({"nonsense": "en"}, 422, "unknown_option", "nonsense", "callback_url, output"),
    ({"audio": "talk.mp3"}, 422, "unknown_option", "audio", "did you mean 'file'"),
    ({"source": "https://example.com/a.wav"}, 422, "invalid_request", "source", "came together"),
    ({"language": "xx"}, 422, "invalid_request", "language", "unknown language"),
    ({"num_speakers": "many"}, 422, "invalid_request", "num_speakers", "integer"),
    ({"num_speakers": "0"}, 422, "invalid_request", "num_speakers", "greater than or equal to 1"),
    ({"min_speakers": "3", "max_speakers": "2"}, 422, "invalid_request", None, "min_speakers is greater"),
    ({"diarize": "perhaps"}, 422, "invalid_request", "diarize", "boolean"),
    ({"metadata": "[1]"}, 422, "invalid_request", "metadata", 'JSON object such as {"order": 7}'),
    ({"metadata": "{"}, 422, "invalid_request", "metadata", "not valid JSON"),
    ({"metadata": '{"a": 1e999}'}, 422, "invalid_request", "metadata", "a number too large"),
    ({"metadata": '{"a": NaN}'}, 422, "invalid_request", "metadata", "not valid JSON"),
    ({"metadata": '{"a": "\\ud800"}'}, 422, "invalid_request", "metadata", "not valid JSON"),
    ({"metadata": '{"a":' * 600 + "1" + "}" * 600}, 422, "invalid_request", "metadata", ""),
    ({"metadata": json.dumps({"a": "x" * 20_000})}, 422, "invalid_request", "metadata", "16,000 characters"),
    ({"model": "large-v9"}, 422, "invalid_request", "model", "this installation runs tiny"),
    ({"clip_start": "5"}, 422, "invalid_request", "clip_start", "behind the end"),
    ({"clip_start": "inf"}, 422, "invalid_request", "clip_start", "finite"),
    ({"clip_end": "inf"}, 422, "invalid_request", "clip_end", "finite"),
    ({"clip_start": "0.5", "clip_end": "0.5000001"}, 422, "invalid_request", "clip_end", "shorter than a millisecond"),
    ({"clip_start": "1.9999999"}, 422, "invalid_request", "clip_start", "shorter than a millisecond"),
    ({"clip_start": "nan"}, 422, "invalid_request", "clip_start", ""),
    ({"initial_prompt": "x" * 70_000}, 422, "invalid_request", "initial_prompt", "longer than 64 kB"),
]


@pytest.mark.parametrize(("fields", "status", "code", "field", "said"), REFUSED_FIELDS)
def test_a_wrong_option_is_refused_by_name_and_leaves_nothing(
    box: Box, fields: dict[str, str], status: int, code: str, field: str | None, said: str
) -> None:
    response = box.submit(**fields)
    problem = response.get_json()
    assert response.content_type == "application/problem+json"
    assert (response.status_code, problem["code"], problem.get("field")) == (status, code, field)
    assert said in problem["detail"]
    assert box.stored_files() == []
    assert box.jobs.page().jobs == []


REFUSED_BODIES = {
    "no file": (form(field_part("language", b"en")), 422, "there is no file"),
    "an empty file": (form(file_part(b"")), 422, "empty"),
    "an empty box of a form": (form(file_part(b"", filename="")), 422, "empty"),
    "two files": (form(file_part(wav(1)), file_part(wav(1))), 422, "two files"),
    "a file for an option": (form(file_part(b"en", name="language")), 422, "plain field"),
    "a file of an unknown name": (form(file_part(wav(1), name="audio")), 422, "unknown field 'audio'"),
    "a file as text": (form(field_part("file", b"abc")), 422, "without a filename"),
    "a field twice": (form(field_part("task", b"x"), field_part("task", b"y")), 422, "came twice"),
    "a field that is not UTF-8": (form(file_part(wav(1)), field_part("language", b"\xff")), 422, "not UTF-8"),
    "no audio": (form(file_part(b"this is not a recording at all" * 50)), 422, "not a recording"),
    "a playlist": (form(file_part(b"ffconcat version 1.0\nfile /etc/passwd\n")), 422, "not a recording"),
    "a WAV without samples": (form(file_part(wav(0))), 422, ""),
    "an end too early": (form(file_part(wav(1)), end=b""), 400, "ends too early"),
    "no form at all": (b"hello", 400, "ends too early"),
    "nothing": (b"", 400, "ends too early"),
    "a part without a name": (form(b"Content-Disposition: form-data\r\n\r\nx"), 422, "unknown field"),
    "a filename in Latin-1": (form(file_part(wav(1)).replace(b"a.wav", b"\xe9.wav")), 400, "not UTF-8"),
    "a part without headers": (form(b"X: y\r\n\r\nx"), 400, "broken"),
}


@pytest.mark.parametrize("case", REFUSED_BODIES)
def test_a_wrong_body_is_refused_and_leaves_nothing(box: Box, case: str) -> None:
    body, status, said = REFUSED_BODIES[case]
    response = post(box, body)
    assert response.status_code == status, response.get_data()
    assert said in response.get_json()["detail"]
    assert box.stored_files() == []


@pytest.mark.parametrize(
    ("content_type", "status", "said"),
    [
        ("audio/wav", 415, "multipart/form-data"),
        ("", 415, "multipart/form-data"),
        ("multipart/form-data", 400, "boundary"),
        ("multipart/form-data; boundary=ä", 400, "boundary"),
    ],
)
def test_another_content_type_is_refused(box: Box, content_type: str, status: int, said: str) -> None:
    response = post(box, b"{}", content_type)
    assert response.status_code == status
    assert said in response.get_json()["detail"]


def test_an_option_in_the_address_is_refused_and_not_passed_over(box: Box) -> None:
    form = {"file": (io.BytesIO(wav(1)), "a.wav")}
    response = box.http.post("/v1/jobs?language=de", data=form, content_type="multipart/form-data", buffered=True)
    assert (response.status_code, response.get_json()["code"], response.get_json()["field"]) == (422, "unknown_option", "language")
    assert "fields of the form" in response.get_json()["detail"]
    assert (box.stored_files(), box.jobs.page().jobs) == ([], [])


@pytest.mark.parametrize("key", ["x" * 256, "naïve", "tab\there"])
def test_an_odd_idempotency_key_is_refused(box: Box, key: str) -> None:
    assert box.submit(key=key).get_json()["field"] == "Idempotency-Key"


def test_a_repeat_gives_the_first_job_and_keeps_one_upload(box: Box) -> None:
    first, second = box.submit(key="k"), box.submit(key="k")
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.get_json()["id"] == second.get_json()["id"]
    assert "Idempotent-Replayed" not in first.headers
    assert second.headers["Idempotent-Replayed"] == "true"
    assert box.stored_files() == [f"jobs/{first.get_json()['id']}/input"]
    assert box.wakeups == 1


@pytest.mark.parametrize("change", [{"language": "de"}, {"content": wav(3)}])
def test_the_same_key_with_another_request_is_a_conflict(box: Box, change: dict[str, Any]) -> None:
    first = box.submit(key="k").get_json()["id"]
    conflict = box.submit(key="k", **change)
    assert (conflict.status_code, conflict.get_json()["code"]) == (409, "idempotency_conflict")
    assert box.stored_files() == [f"jobs/{first}/input"]


@pytest.fixture
def small_box(redis_url: str, tmp_path: Path, ffmpeg: str) -> Iterator[Box]:
    box = Box(redis_url, tmp_path, ffmpeg, max_upload_bytes=100_000, max_duration_s=2.5, max_queued_jobs=1)
    yield box
    box.close()


def test_more_bytes_than_allowed_are_refused_while_they_come(small_box: Box) -> None:
    response = small_box.submit(content=wav(4))
    assert (response.status_code, response.get_json()["code"]) == (413, "too_large")
    assert "100000 bytes" in response.get_json()["detail"]
    assert small_box.stored_files() == []


def test_an_announced_length_that_is_too_much_is_refused_unread(small_box: Box) -> None:
    class Unread:
        def read(self, *_: object) -> bytes:
            raise AssertionError("the body was read")

    announced = {"CONTENT_LENGTH": "10000000", "wsgi.input": Unread()}
    response = small_box.http.post("/v1/jobs", content_type=f"multipart/form-data; boundary={BOUNDARY}", environ_overrides=announced)
    assert response.status_code == 413


def test_a_recording_that_lasts_too_long_is_refused(small_box: Box) -> None:
    response = small_box.submit(content=wav(3))
    assert (response.status_code, response.get_json()["code"]) == (413, "too_large")
    assert "lasts 3.000 s" in response.get_json()["detail"]
    assert small_box.stored_files() == []


def test_a_full_queue_says_when_to_come_back_but_still_knows_its_jobs(small_box: Box) -> None:
    first = small_box.submit(key="k")
    full = small_box.submit()
    assert (full.status_code, full.get_json()["code"]) == (503, "queue_full")
    assert int(full.headers["Retry-After"]) > 0
    assert small_box.submit(key="k").get_json()["id"] == first.get_json()["id"]
    assert small_box.submit(key="another").status_code == 503
    assert small_box.stored_files() == [f"jobs/{first.get_json()['id']}/input"]


def test_a_disk_without_room_is_said_before_the_upload(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box.files, "free_bytes", lambda: 64 * 1024**2)
    response = box.submit()
    assert (response.status_code, response.get_json()["code"]) == (507, "disk_full")
    assert box.stored_files() == []


def test_room_is_looked_for_again_during_a_long_upload(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    room = iter([10**12, 10**12, 0])  # before the upload, after 16 MB, after 32 MB
    monkeypatch.setattr(box.files, "free_bytes", lambda: next(room))
    response = post(box, form(file_part(bytes(33 * 1024**2))))
    assert (response.status_code, response.get_json()["code"]) == (507, "disk_full")
    assert box.stored_files() == []
    assert list(room) == []


def test_as_many_uploads_as_places_and_no_more(box: Box) -> None:
    with ExitStack() as uploads:
        for _ in range(4):
            uploads.enter_context(box.uploads.one("", ""))
        response = box.submit()
    assert box.submit().status_code == 202
    assert (response.status_code, response.get_json()["code"]) == (503, "service_busy")
    assert "Retry-After" in response.headers


def test_without_redis_nothing_is_taken_and_nothing_stays(redis_server: RedisServer, tmp_path: Path, ffmpeg: str) -> None:
    box = Box(redis_server.url, tmp_path / "files", ffmpeg)
    redis_server.stop()
    response = box.submit()
    assert (response.status_code, response.get_json()["code"]) == (503, "store_unavailable")
    assert int(response.headers["Retry-After"]) > 0
    assert str(redis_server.port) not in response.get_data(as_text=True)
    assert box.stored_files() == []
    box.close()


def test_a_wake_up_that_is_not_sent_is_no_error(box: Box) -> None:
    box.has_broker = False
    with capture_logs() as logs:
        job_id = box.submitted()
    assert box.jobs.get(job_id).state == JobState.QUEUED
    assert {"event": "wake_up_not_sent", "job_id": job_id, "log_level": "warning"} in logs


def test_a_disk_that_fills_up_during_the_upload_leaves_nothing(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    start = box.files.start

    def on_a_full_disk(key: str) -> PartialFile:
        partial = start(key)
        with open("/dev/full", "wb") as full:
            os.dup2(full.fileno(), partial._file.fileno())
        return partial

    monkeypatch.setattr(box.files, "start", on_a_full_disk)
    response = box.submit()
    assert (response.status_code, response.get_json()["code"]) == (507, "disk_full")
    assert box.stored_files() == []


@pytest.mark.parametrize(("error", "status", "code"), [(TimeoutError, 408, "request_timeout"), (OSError, 400, "malformed_request")])
def test_an_upload_that_stands_still_or_breaks_off_is_given_up(box: Box, error: type[OSError], status: int, code: str) -> None:
    class Broken:
        def read(self, *_: object) -> bytes:
            raise error

    broken = {"CONTENT_LENGTH": "1000", "wsgi.input": Broken()}
    response = box.http.post("/v1/jobs", content_type=f"multipart/form-data; boundary={BOUNDARY}", environ_overrides=broken)
    assert (response.status_code, response.get_json()["code"]) == (status, code)


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\talk.wav", "talk.wav"),
        ("a\x00b\r\nc.wav", "abc.wav"),
        ("evil\u202egpj.wav", "evilgpj.wav"),
        ("x" * 300, "x" * 255),
        ("Gespräch 1.wav", "Gespräch 1.wav"),
        ("", ""),
    ],
)
def test_a_filename_is_for_display_only(sent: str, kept: str) -> None:
    assert display_name(sent) == kept
