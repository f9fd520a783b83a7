"""Fetching from servers that dawdle, drip, send too much or never end."""

import gzip
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from core.errors import CallerError, DiskFull, SourceTooLarge, SourceUnreachable
from core.local_file_store import LocalFileStore
from dispatcher.http_fetch import Patience
from dispatcher.landing import Interrupted, Landing
from tests.dispatcher.http_landing import MOST, TALK, digest, fetch, landed
from tests.dispatcher.source_server import SourceServer, Visit


def test_a_server_that_says_nothing_is_given_up(web: SourceServer, landing: Landing) -> None:
    released = threading.Event()
    web.answers["/talk.wav"] = lambda _visit: released.wait(20) and None
    with pytest.raises(Interrupted, match=r"in time|too long"):
        fetch(web.url(), landing)
    released.set()


def drip(content: Iterator[bytes], pause_s: float = 0.05) -> Callable[[Visit], None]:
    def answer(visit: Visit) -> None:
        for piece in content:
            visit.wfile.write(piece)
            time.sleep(pause_s)

    return answer


def test_headers_that_drip_are_given_up(web: SourceServer, landing: Landing) -> None:
    web.answers["/talk.wav"] = drip(piece for piece in [b"HTTP/1.1 200 OK\r\n"] + [b"x: y\r\n"] * 200)
    began = time.monotonic()
    with pytest.raises(Interrupted, match="too long"):
        fetch(web.url(), landing)
    assert time.monotonic() - began < 3


def test_headers_without_end_are_given_up(web: SourceServer, landing: Landing) -> None:
    web.answers["/talk.wav"] = drip((b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000 for _ in range(5)), pause_s=0)
    with pytest.raises(Interrupted):
        fetch(web.url(), landing)


def test_a_body_that_drips_is_given_up(web: SourceServer, landing: Landing) -> None:
    web.answers["/talk.wav"] = drip(iter([b"HTTP/1.1 200 OK\r\n\r\n"] + [b"abc"] * 200))
    with pytest.raises(Interrupted, match="less than 100000 bytes a second"):
        fetch(web.url(), landing)
    assert web.was_left.wait(5)


def test_a_body_that_takes_too_long_is_given_up(web: SourceServer, landing: Landing) -> None:
    web.answers["/talk.wav"] = drip(iter([b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"] + [b"abc"] * 100))
    with pytest.raises(Interrupted, match="too long"):
        fetch(web.url(), landing, patience=Patience(window_s=60, whole_s=0.5))


@pytest.mark.parametrize("head", [b"", b"Transfer-Encoding: chunked\r\n"])
def test_a_body_without_end_is_cut_at_the_limit(web: SourceServer, landing: Landing, head: bytes) -> None:
    piece = b"10000\r\n" + bytes(0x10000) + b"\r\n" if head else bytes(0x10000)

    def endless() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n" + head + b"\r\n"
        while True:
            yield piece

    web.answers["/talk.wav"] = drip(endless(), pause_s=0)
    with pytest.raises(SourceTooLarge, match=str(MOST)):
        fetch(web.url(), landing)
    assert landing.arrived_bytes <= MOST
    assert web.was_left.wait(5)


def test_a_length_that_is_too_much_is_refused_before_the_body(web: SourceServer, landing: Landing) -> None:
    web.answers["/talk.wav"] = lambda visit: visit.head(200, Content_Length=str(MOST + 1))
    with pytest.raises(SourceTooLarge):
        fetch(web.url(), landing)
    assert landing.arrived_bytes == 0


@pytest.mark.parametrize("length", ["-5", "many", "1, 2", "9" * 5000])
def test_a_length_that_is_none_is_an_error(web: SourceServer, landing: Landing, length: str) -> None:
    web.answers["/talk.wav"] = lambda visit: (visit.head(200, Content_Length=length), visit.wfile.write(TALK))[0]
    with pytest.raises((Interrupted, CallerError)):
        fetch(web.url(), landing)


def test_what_comes_behind_the_announced_length_is_no_part_of_the_body(web: SourceServer, landing: Landing) -> None:
    web.answers["/talk.wav"] = lambda visit: (visit.head(200, Content_Length="1000"), visit.wfile.write(TALK))[0]
    fetch(web.url(), landing)
    assert landed(landing) == digest(TALK[:1000])


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip"])
def test_a_compressed_body_is_refused_unread(web: SourceServer, landing: Landing, encoding: str) -> None:
    bomb = gzip.compress(bytes(50 * 1024**2))
    web.answers["/talk.wav"] = lambda visit: visit.say(200, bomb, Content_Encoding=encoding)
    with pytest.raises(SourceUnreachable, match="compressed"):
        fetch(web.url(), landing)
    assert landing.arrived_bytes == 0


def test_a_disk_without_room_is_said_before_a_byte_is_written(landing: Landing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalFileStore, "free_bytes", lambda _files: 1000)
    with pytest.raises(DiskFull):
        landing.begin()


def test_a_cancel_is_heard_while_nothing_comes(web: SourceServer, landing: Landing) -> None:
    class Cancelled(Exception):
        """Raised by the test's own check."""

    released, cancelled = threading.Event(), threading.Event()

    def silence(_visit: Visit) -> None:
        threading.Timer(0.2, cancelled.set).start()  # by then the read has begun
        released.wait(20)

    def check() -> None:
        if cancelled.is_set():
            raise Cancelled

    web.answers["/talk.wav"] = silence

    began = time.monotonic()
    with pytest.raises(Cancelled):
        fetch(web.url(), landing, patience=Patience(), check=check)
    assert time.monotonic() - began < 3
    released.set()
