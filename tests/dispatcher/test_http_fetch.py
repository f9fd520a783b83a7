"""Fetching over real connections: every server that lies, dawdles, breaks off or sends us elsewhere."""

import gzip
import hashlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from core.errors import CallerError, DiskFull, SourceRefused, SourceTooLarge, SourceUnreachable
from core.local_file_store import LocalFileStore
from dispatcher.guard import Guard
from dispatcher.http_fetch import HttpFetch, Patience, _target
from dispatcher.landing import Interrupted, Landing
from dispatcher.outbound import guarded_client
from tests.dispatcher.source_server import CERTIFICATE, SourceServer, Visit, file, redirect

LOOPBACK = ("127.0.0.1/32",)
TALK = bytes(range(256)) * 4096  # 1 MB
MOST = 4 * 1024**2
HASTY = Patience(header_s=1.0, window_s=0.3, least_bytes_per_s=100_000, whole_s=3.0, connect_s=1.0, read_s=1.0)


def nothing() -> None:
    """For fetches that nobody cancels."""


@pytest.fixture
def server() -> Iterator[SourceServer]:
    with SourceServer({"/talk.wav": file(TALK)}) as running:
        yield running


@pytest.fixture
def landing(tmp_path: Path) -> Iterator[Landing]:
    made = Landing(LocalFileStore(tmp_path), "jobs/a/fetches/1/input", max_bytes=MOST)
    yield made
    made.discard()


def fetch(
    url: str, landing: Landing, *, patience: Patience = HASTY, guard: Guard | None = None, check: Callable[[], None] = nothing
) -> None:
    HttpFetch(guard or Guard(LOOPBACK), max_bytes=MOST, patience=patience)(url, landing, check)


def landed(landing: Landing) -> str:
    return landing.keep().sha256


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_source_lands_whole_with_its_hash(server: SourceServer, landing: Landing, tmp_path: Path) -> None:
    fetch(server.url("/talk.wav?signature=s"), landing)
    assert landed(landing) == digest(TALK)
    assert (tmp_path / landing.key).read_bytes() == TALK
    (asked,) = server.asked
    assert asked.path == "/talk.wav?signature=s"
    assert asked.headers["host"] == f"127.0.0.1:{server.port}"
    assert asked.headers["accept-encoding"] == "identity"
    assert {"authorization", "cookie", "referer", "range"} & set(asked.headers) == set()


def test_a_chunked_body_and_one_that_ends_with_its_connection_are_whole(server: SourceServer, landing: Landing) -> None:
    def chunked(visit: Visit) -> None:
        visit.head(200, Transfer_Encoding="chunked")
        for start in range(0, len(TALK), 100_000):
            chunk = TALK[start : start + 100_000]
            visit.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        visit.wfile.write(b"0\r\n\r\n")

    def until_the_end(visit: Visit) -> None:
        visit.head(200)
        visit.wfile.write(TALK)

    server.answers |= {"/chunked": chunked, "/end": until_the_end}
    for path in ("/chunked", "/end"):
        fetch(server.url(path), landing)
        assert landed(landing) == digest(TALK)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(server: SourceServer, landing: Landing, status: int) -> None:
    server.answers["/moved"] = redirect("/talk.wav", status)
    fetch(server.url("/moved"), landing)
    assert landed(landing) == digest(TALK)


def test_cookies_are_not_carried_from_hop_to_hop(server: SourceServer, landing: Landing) -> None:
    server.answers["/moved"] = lambda visit: visit.say(302, Location="/talk.wav", **{"Set-Cookie": "session=1; Path=/"})
    fetch(server.url("/moved"), landing)
    assert "cookie" not in server.asked[1].headers


def test_credentials_and_proxies_of_our_environment_are_not_used(
    server: SourceServer, landing: Landing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    fetch(server.url(), landing)
    assert "authorization" not in server.asked[0].headers


@pytest.mark.parametrize(
    "target",
    [
        "http://10.0.0.1/", "http://169.254.169.254/latest/meta-data/", "//[::1]/", "http://[::ffff:127.0.0.1]/", "http://localhost/",
        "http://0x7f.1/", "http://2130706433/", "http://metadata.google.internal/", "http://inside.example.org/", "http://user:pw@example.org/",
        "ftp://example.org/", "file:///etc/passwd", "gopher://example.org/_x", "http://example.org:22/", "http://[fe80::1%25lo]/",
    ],
)  # fmt: skip
def test_a_redirect_into_the_inside_is_refused(server: SourceServer, landing: Landing, target: str) -> None:
    inside = Guard(LOOPBACK, resolve=lambda _host, _port: ["10.0.0.7"])
    server.answers["/moved"] = redirect(target)
    with pytest.raises(SourceRefused):
        fetch(server.url("/moved"), landing, guard=inside)


def test_six_redirects_are_too_many_and_five_are_not(server: SourceServer, landing: Landing) -> None:
    server.answers |= {f"/{n}": redirect(f"/{n - 1}") for n in range(1, 7)} | {"/0": file(TALK)}
    fetch(server.url("/5"), landing)
    with pytest.raises(SourceUnreachable, match="more than 5 times"):
        fetch(server.url("/6"), landing)


@pytest.mark.parametrize("location", [None, "http://[", "http://\x80/"])
def test_a_redirect_to_nowhere_is_an_error_of_the_source(server: SourceServer, landing: Landing, location: str | None) -> None:
    server.answers["/moved"] = lambda visit: visit.say(302, **({} if location is None else {"Location": location}))
    with pytest.raises((CallerError, Interrupted)):  # httpx itself stumbles over some
        fetch(server.url("/moved"), landing)


def test_the_address_that_was_checked_is_the_one_that_is_reached(server: SourceServer, landing: Landing) -> None:
    """A resolver that answers well for the check and badly for the connection is asked once."""
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    fetch(server.url(host="rebound.example.org"), landing, guard=Guard(LOOPBACK, resolve=lambda _host, _port: next(answers)))
    assert next(answers) == ["127.0.0.2"]
    assert server.asked[0].headers["host"] == f"rebound.example.org:{server.port}"


def test_each_hop_is_resolved_and_checked_anew(server: SourceServer, landing: Landing) -> None:
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])
    server.answers["/moved"] = redirect("/talk.wav")
    with pytest.raises(SourceRefused):
        fetch(
            server.url("/moved", host="rebound.example.org"), landing, guard=Guard(LOOPBACK, resolve=lambda _host, _port: next(answers))
        )  # fmt: skip
    assert [asked.path for asked in server.asked] == ["/moved"]


def test_the_next_address_is_tried_when_the_first_does_not_answer(server: SourceServer, landing: Landing) -> None:
    both = Guard(("127.0.0.0/8",), resolve=lambda _host, _port: ["127.0.0.9", "127.0.0.1"])
    fetch(server.url(host="twice.example.org"), landing, guard=both)
    assert landed(landing) == digest(TALK)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 451, 204, 304])
def test_a_refusal_is_not_asked_again(server: SourceServer, landing: Landing, status: int) -> None:
    server.answers["/talk.wav"] = lambda visit: visit.head(status)
    with pytest.raises(SourceUnreachable, match=f"answered {status}"):
        fetch(server.url(), landing)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_passing_failure_is_worth_another_try(server: SourceServer, landing: Landing, status: int) -> None:
    server.answers["/talk.wav"] = lambda visit: visit.say(status)
    with pytest.raises(Interrupted, match=str(status)):
        fetch(server.url(), landing)


@pytest.mark.parametrize(
    ("said", "low", "high"),
    [
        ("120", 120, 120),
        ("Fri, 31 Dec 2100 23:59:59 GMT", 1e9, 1e10),
        ("soon", 0, 0),
        ("-5", 0, 0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0, 0),
    ],
)
def test_retry_after_is_heard(server: SourceServer, landing: Landing, said: str, low: float, high: float) -> None:
    server.answers["/talk.wav"] = lambda visit: visit.say(429, Retry_After=said)
    with pytest.raises(Interrupted) as interrupted:
        fetch(server.url(), landing)
    assert low <= interrupted.value.after_s <= high


def test_nobody_there_is_worth_another_try(landing: Landing) -> None:
    with SourceServer() as gone:
        url = gone.url()
    with pytest.raises(Interrupted, match="cannot be connected to"):
        fetch(url, landing)


def test_a_certificate_that_nobody_signed_is_refused(landing: Landing) -> None:
    with SourceServer({"/talk.wav": file(TALK)}, is_tls=True) as server, pytest.raises(SourceUnreachable, match="certificate"):
        fetch(server.url(), landing)
    assert server.asked == []


def test_a_certificate_is_checked_for_the_name_not_the_address() -> None:
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    guard = Guard(LOOPBACK, resolve=lambda _host, _port: ["127.0.0.1"])
    with SourceServer({"/talk.wav": file(TALK)}, is_tls=True) as server, guarded_client(guard, tls=trusting) as client:
        assert client.get(server.url(host="source.test")).content == TALK
        with pytest.raises(httpx.ConnectError, match="Hostname mismatch"):
            client.get(server.url(host="other.test"))
        with pytest.raises(httpx.ConnectError, match="IP address mismatch"):
            client.get(server.url())


def test_a_downgrade_from_https_is_refused() -> None:
    answer = httpx.Response(302, headers={"Location": "http://example.org/"})
    with pytest.raises(SourceRefused, match="from https"):
        _target(httpx.URL("https://example.org/"), answer)


def test_a_server_that_says_nothing_is_given_up(server: SourceServer, landing: Landing) -> None:
    released = threading.Event()
    server.answers["/talk.wav"] = lambda _visit: released.wait(20) and None
    with pytest.raises(Interrupted, match=r"in time|too long"):
        fetch(server.url(), landing)
    released.set()


def drip(content: Iterator[bytes], pause_s: float = 0.05) -> Callable[[Visit], None]:
    def answer(visit: Visit) -> None:
        for piece in content:
            visit.wfile.write(piece)
            time.sleep(pause_s)

    return answer


def test_headers_that_drip_are_given_up(server: SourceServer, landing: Landing) -> None:
    server.answers["/talk.wav"] = drip(piece for piece in [b"HTTP/1.1 200 OK\r\n"] + [b"x: y\r\n"] * 200)
    began = time.monotonic()
    with pytest.raises(Interrupted, match="too long"):
        fetch(server.url(), landing)
    assert time.monotonic() - began < 3


def test_headers_without_end_are_given_up(server: SourceServer, landing: Landing) -> None:
    server.answers["/talk.wav"] = drip((b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000 for _ in range(5)), pause_s=0)
    with pytest.raises(Interrupted):
        fetch(server.url(), landing)


def test_a_body_that_drips_is_given_up(server: SourceServer, landing: Landing) -> None:
    server.answers["/talk.wav"] = drip(iter([b"HTTP/1.1 200 OK\r\n\r\n"] + [b"abc"] * 200))
    with pytest.raises(Interrupted, match="less than 100000 bytes a second"):
        fetch(server.url(), landing)
    assert server.was_left.wait(5)


def test_a_body_that_takes_too_long_is_given_up(server: SourceServer, landing: Landing) -> None:
    server.answers["/talk.wav"] = drip(iter([b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"] + [b"abc"] * 100))
    with pytest.raises(Interrupted, match="too long"):
        fetch(server.url(), landing, patience=Patience(window_s=60, whole_s=0.5))


@pytest.mark.parametrize("head", [b"", b"Transfer-Encoding: chunked\r\n"])
def test_a_body_without_end_is_cut_at_the_limit(server: SourceServer, landing: Landing, head: bytes) -> None:
    piece = b"10000\r\n" + bytes(0x10000) + b"\r\n" if head else bytes(0x10000)

    def endless() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\n" + head + b"\r\n"
        while True:
            yield piece

    server.answers["/talk.wav"] = drip(endless(), pause_s=0)
    with pytest.raises(SourceTooLarge, match=str(MOST)):
        fetch(server.url(), landing)
    assert landing.arrived_bytes <= MOST
    assert server.was_left.wait(5)


def test_a_length_that_is_too_much_is_refused_before_the_body(server: SourceServer, landing: Landing) -> None:
    server.answers["/talk.wav"] = lambda visit: visit.head(200, Content_Length=str(MOST + 1))
    with pytest.raises(SourceTooLarge):
        fetch(server.url(), landing)
    assert landing.arrived_bytes == 0


@pytest.mark.parametrize("length", ["-5", "many", "1, 2", "9" * 5000])
def test_a_length_that_is_none_is_an_error(server: SourceServer, landing: Landing, length: str) -> None:
    server.answers["/talk.wav"] = lambda visit: (visit.head(200, Content_Length=length), visit.wfile.write(TALK))[0]
    with pytest.raises((Interrupted, CallerError)):
        fetch(server.url(), landing)


def test_what_comes_behind_the_announced_length_is_no_part_of_the_body(server: SourceServer, landing: Landing) -> None:
    server.answers["/talk.wav"] = lambda visit: (visit.head(200, Content_Length="1000"), visit.wfile.write(TALK))[0]
    fetch(server.url(), landing)
    assert landed(landing) == digest(TALK[:1000])


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, gzip"])
def test_a_compressed_body_is_refused_unread(server: SourceServer, landing: Landing, encoding: str) -> None:
    bomb = gzip.compress(bytes(50 * 1024**2))
    server.answers["/talk.wav"] = lambda visit: visit.say(200, bomb, Content_Encoding=encoding)
    with pytest.raises(SourceUnreachable, match="compressed"):
        fetch(server.url(), landing)
    assert landing.arrived_bytes == 0


def test_a_broken_download_goes_on_where_it_stopped(server: SourceServer, landing: Landing) -> None:
    server.answers["/talk.wav"] = file(TALK, cut_at=700_000)
    with pytest.raises(Interrupted, match="connection broke"):
        fetch(server.url(), landing)
    arrived = landing.arrived_bytes
    assert 0 < arrived <= 700_000
    fetch(server.url(), landing)
    assert (server.asked[1].headers["range"], server.asked[1].headers["if-range"]) == (f"bytes={arrived}-", '"v1"')
    assert landed(landing) == digest(TALK)


def test_a_source_that_changed_meanwhile_begins_anew(server: SourceServer, landing: Landing) -> None:
    server.answers["/talk.wav"] = file(TALK, cut_at=700_000)
    with pytest.raises(Interrupted):
        fetch(server.url(), landing)
    server.answers["/talk.wav"] = file(TALK[::-1], etag='"v2"')
    fetch(server.url(), landing)
    assert landed(landing) == digest(TALK[::-1])


@pytest.mark.parametrize("header", [{"ETag": 'W/"weak"'}, {}, {"ETag": '"v1"', "Accept-Ranges": "none"}])
def test_without_a_strong_validator_a_broken_download_begins_anew(server: SourceServer, landing: Landing, header: dict[str, str]) -> None:
    server.answers["/talk.wav"] = lambda visit: (
        visit.head(200, **{"Content-Length": str(len(TALK)), **header}), visit.wfile.write(TALK[:9000])
    )[0]  # fmt: skip
    with pytest.raises(Interrupted):
        fetch(server.url(), landing)
    server.answers["/talk.wav"] = file(TALK)
    fetch(server.url(), landing)
    assert "range" not in server.asked[1].headers
    assert landed(landing) == digest(TALK)


def test_a_date_will_do_where_there_is_no_tag(server: SourceServer, landing: Landing) -> None:
    date = "Sun, 01 Nov 2026 10:00:00 GMT"
    server.answers["/talk.wav"] = lambda visit: (
        visit.head(200, **{"Content-Length": str(len(TALK)), "Last-Modified": date}), visit.wfile.write(TALK[:9000])
    )[0]  # fmt: skip
    with pytest.raises(Interrupted):
        fetch(server.url(), landing)
    start = landing.arrived_bytes
    part = {"Content-Range": f"bytes {start}-{len(TALK) - 1}/{len(TALK)}", "Last-Modified": date}
    server.answers["/talk.wav"] = lambda visit: visit.say(206, TALK[start:], **part)
    fetch(server.url(), landing)
    assert server.asked[1].headers["if-range"] == date
    assert landed(landing) == digest(TALK)


LYING_PARTS = {
    "another start": {"Content-Range": f"bytes 5-{len(TALK) - 1}/{len(TALK)}"},
    "no range": {},
    "nonsense": {"Content-Range": "bytes here"},
    "another version": {"Content-Range": "bytes 9000-99999/100000", "ETag": '"v2"'},
}


@pytest.mark.parametrize("lie", LYING_PARTS)
def test_a_part_that_does_not_fit_is_not_put_behind_what_is_there(server: SourceServer, landing: Landing, lie: str) -> None:
    server.answers["/talk.wav"] = lambda visit: (
        visit.head(200, Content_Length=str(len(TALK)), ETag='"v1"'),
        visit.wfile.write(TALK[:9000]),
    )[0]
    with pytest.raises(Interrupted):
        fetch(server.url(), landing)
    server.answers["/talk.wav"] = lambda visit: visit.say(206, b"x" * 100, **LYING_PARTS[lie])
    with pytest.raises(Interrupted, match="another part"):
        fetch(server.url(), landing)
    assert landing.arrived_bytes == 0
    server.answers["/talk.wav"] = file(TALK)
    fetch(server.url(), landing)
    assert landed(landing) == digest(TALK)


def test_a_part_that_was_not_asked_for_is_none(server: SourceServer, landing: Landing) -> None:
    server.answers["/talk.wav"] = lambda visit: visit.say(206, TALK, Content_Range=f"bytes 0-{len(TALK) - 1}/{len(TALK)}")
    with pytest.raises(Interrupted):
        fetch(server.url(), landing)


@pytest.mark.parametrize(("size", "is_whole"), [(9000, True), (8000, False)])
def test_nothing_behind_what_is_there_means_all_is_there(server: SourceServer, landing: Landing, size: int, is_whole: bool) -> None:
    landing.begin('"v1"')
    landing.write(TALK[:9000])
    server.answers["/talk.wav"] = lambda visit: visit.say(416, Content_Range=f"bytes */{size}")
    if is_whole:
        fetch(server.url(), landing)
        assert landed(landing) == digest(TALK[:9000])
    else:
        with pytest.raises(Interrupted, match="another version"):
            fetch(server.url(), landing)


def test_a_disk_without_room_is_said_before_a_byte_is_written(landing: Landing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalFileStore, "free_bytes", lambda _files: 1000)
    with pytest.raises(DiskFull):
        landing.begin()


def test_a_cancel_is_heard_while_nothing_comes(server: SourceServer, landing: Landing) -> None:
    class Cancelled(Exception):
        """Raised by the test's own check."""

    released, cancelled = threading.Event(), threading.Event()

    def silence(_visit: Visit) -> None:
        threading.Timer(0.2, cancelled.set).start()  # by then the read has begun
        released.wait(20)

    def check() -> None:
        if cancelled.is_set():
            raise Cancelled

    server.answers["/talk.wav"] = silence

    began = time.monotonic()
    with pytest.raises(Cancelled):
        fetch(server.url(), landing, patience=Patience(), check=check)
    assert time.monotonic() - began < 3
    released.set()
