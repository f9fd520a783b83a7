"""Names and forms that mean harm, sent to the real service: never a 500, never a hang, nothing left of what was refused."""

import re
import socket
import unicodedata
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import RedisServer, files_in
from tests.service.box import Box, RunningService, wav
from tests.service.test_submission import field_part, file_part, form, post

NAMES = {
    "up and away": b"../../../../etc/passwd",
    "Windows' way up": b"..\\..\\boot.ini",
    "an absolute path": b"/etc/shadow",
    "control characters": b"a\x01\x02\x1b[31mred\x7f.wav",
    "a NUL": b"a\x00b.wav",
    "a bare newline": b"a\nb.wav",
    "a header of its own": b'a.wav"\r\nX-Injected: yes\r\nX: "',
    "right to left": "evil\u202egpj.wav".encode(),
    "invisible": "a\u200b\u2066\ufeffb.wav".encode(),
    "4 kB": b"x" * 4096,
    "400 kB": b"x" * 400_000,
    "an option": b"-i",
    "an address": b"http://169.254.169.254/latest/meta-data",
    "a protocol of ffmpeg's": b"concat:/etc/passwd|/etc/shadow",
    "a pattern of ffmpeg's": b"%03d.wav",
    "a device": b"/dev/zero",
    "a shell's": b"$(touch here).wav;`id`|id",
    "markup": b"<script>alert(1)</script>.wav",
    "a format string": b"{0.__class__}%s%n.wav",
    "not UTF-8": b"\xff\xfe\x80.wav",
    "half a pair": b"\xed\xa0\x80.wav",
    "quotes": b'a\\"b.wav',
    "dots": b"..",
    "a key of ours": b"jobs/0/input",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_at_most(service: RunningService, redis_url: str, name: str) -> None:
    assert redis_url
    head = b'Content-Disposition: form-data; name="file"; filename="' + NAMES[name] + b'"\r\n\r\n'
    before = set(files_in(service.folder))
    response = httpx.post(
        f"{service.url}/v1/jobs",
        content=form(head + wav(1)),
        headers={"Content-Type": "multipart/form-data; boundary=frontier"},
        timeout=30,
    )
    assert response.status_code in (202, 400, 422), response.text
    assert "X-Injected" not in response.headers
    new = set(files_in(service.folder)) - before
    if response.status_code != 202:
        assert response.json()["detail"]
        assert new == set()
        return
    job = response.json()
    assert new == {f"jobs/{job['id']}/input"}
    assert len(job["filename"]) <= 255
    assert "/" not in job["filename"]
    assert all(unicodedata.category(character)[0] != "C" for character in job["filename"])


def raw(service: RunningService, request: bytes) -> bytes:
    """The first bytes that come back on what was written to the socket, however wrong."""
    host, port = re.findall(r"//(.*):(\d+)", service.url)[0]
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(65536)


HEADS = {
    "giant headers": b"X: " + b"x" * 200_000 + b"\r\n",
    "many headers": b"".join(b"X-%d: y\r\n" % number for number in range(2000)),
    "a length that is none": b"Content-Length: many\r\n",
    "a length below nothing": b"Content-Length: -1\r\n",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 6\r\n",
    "a length and chunks": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "chunks that are none": b"Transfer-Encoding: chunked\r\n",
    "a length that is never sent": b"Content-Length: 5000\r\n",
}


@pytest.mark.parametrize("name", HEADS)
def test_a_request_that_is_wrong_below_the_form_is_refused(service: RunningService, redis_url: str, name: str) -> None:
    assert redis_url
    before = set(files_in(service.folder))
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=frontier\r\n"
    answer = raw(service, head + HEADS[name] + b"\r\n" + form(file_part(wav(1)))[:500])
    assert re.match(rb"HTTP/1\.1 4\d\d ", answer), answer[:200]
    assert set(files_in(service.folder)) == before


@pytest.fixture(scope="module")
def fuzzed(redis_session: RedisServer, tmp_path_factory: pytest.TempPathFactory, ffmpeg: str) -> Iterator[Box]:
    box = Box(redis_session.url, tmp_path_factory.mktemp("fuzzed"), ffmpeg)
    yield box
    box.close()


FORM = form(field_part("language", b"en"), file_part(wav(0.1)), field_part("metadata", b'{"a": 1}'))
EDIT = st.tuples(
    st.integers(0, 400), st.integers(0, 40), st.sampled_from([b"", b"\r\n", b"--frontier", b"--", b'"', b";", b"\x00", b"\xff", b"="])
)
TYPES = ["multipart/form-data; boundary=frontier", "multipart/form-data; boundary=" + "b" * 300, 'multipart/form-data; boundary="', "a/b"]


@given(edits=st.lists(EDIT, min_size=1, max_size=6), cut=st.integers(0, 4000), kind=st.sampled_from([TYPES[0]] * 5 + TYPES[1:]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_mangled_form_is_taken_or_refused_with_the_reason(fuzzed: Box, edits: list[tuple[int, int, bytes]], cut: int, kind: str) -> None:
    body = bytearray(FORM)
    for place, length, content in edits:
        body[place : place + length] = content
    response: Any = post(fuzzed, bytes(body)[: cut or None], kind)
    left = fuzzed.stored_files()
    if response.status_code == 202:
        job_id = response.get_json()["id"]
        assert left == [f"jobs/{job_id}/input"]
        fuzzed.files.delete_job(job_id)
    else:
        assert response.status_code in (400, 413, 415, 422), response.get_data()
        assert response.get_json()["detail"]
        assert left == []


@given(body=st.binary(max_size=3000))
def test_noise_in_place_of_a_form_is_refused(fuzzed: Box, body: bytes) -> None:
    response = post(fuzzed, b"--frontier\r\n" + body)
    assert response.status_code in (400, 422), response.get_data()
    assert fuzzed.stored_files() == []
