"""Fetching over real connections: redirects, refusals, certificates, and servers that send us elsewhere."""

import ssl
from pathlib import Path

import httpx
import pytest

from core.errors import CallerError, SourceRefused, SourceUnreachable
from dispatcher.guard import Guard
from dispatcher.http_fetch import _target
from dispatcher.landing import Interrupted, Landing
from dispatcher.outbound import guarded_client
from tests.dispatcher.http_landing import LOOPBACK, TALK, digest, fetch, landed
from tests.dispatcher.source_server import CERTIFICATE, SourceServer, Visit, file, redirect


def test_a_source_lands_whole_with_its_hash(web: SourceServer, landing: Landing, tmp_path: Path) -> None:
    fetch(web.url("/talk.wav?signature=s"), landing)
    assert landed(landing) == digest(TALK)
    assert (tmp_path / landing.key).read_bytes() == TALK
    (asked,) = web.asked
    assert asked.path == "/talk.wav?signature=s"
    assert asked.headers["host"] == f"127.0.0.1:{web.port}"
    assert asked.headers["accept-encoding"] == "identity"
    assert {"authorization", "cookie", "referer", "range"} & set(asked.headers) == set()


def test_a_chunked_body_and_one_that_ends_with_its_connection_are_whole(web: SourceServer, landing: Landing) -> None:
    def chunked(visit: Visit) -> None:
        visit.head(200, Transfer_Encoding="chunked")
        for start in range(0, len(TALK), 100_000):
            chunk = TALK[start : start + 100_000]
            visit.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        visit.wfile.write(b"0\r\n\r\n")

    def until_the_end(visit: Visit) -> None:
        visit.head(200)
        visit.wfile.write(TALK)

    web.answers |= {"/chunked": chunked, "/end": until_the_end}
    for path in ("/chunked", "/end"):
        fetch(web.url(path), landing)
        assert landed(landing) == digest(TALK)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(web: SourceServer, landing: Landing, status: int) -> None:
    web.answers["/moved"] = redirect("/talk.wav", status)
    fetch(web.url("/moved"), landing)
    assert landed(landing) == digest(TALK)


def test_cookies_are_not_carried_from_hop_to_hop(web: SourceServer, landing: Landing) -> None:
    web.answers["/moved"] = lambda visit: visit.say(302, Location="/talk.wav", **{"Set-Cookie": "session=1; Path=/"})
    fetch(web.url("/moved"), landing)
    assert "cookie" not in web.asked[1].headers


def test_credentials_and_proxies_of_our_environment_are_not_used(
    web: SourceServer, landing: Landing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    fetch(web.url(), landing)
    assert "authorization" not in web.asked[0].headers


@pytest.mark.parametrize(
    "target",
    [
        "http://10.0.0.1/", "http://169.254.169.254/latest/meta-data/", "//[::1]/", "http://[::ffff:127.0.0.1]/", "http://localhost/",
        "http://0x7f.1/", "http://2130706433/", "http://metadata.google.internal/", "http://inside.example.org/", "http://user:pw@example.org/",
        "ftp://example.org/", "file:///etc/passwd", "gopher://example.org/_x", "http://example.org:22/", "http://[fe80::1%25lo]/",
    ],
)  # fmt: skip
def test_a_redirect_into_the_inside_is_refused(web: SourceServer, landing: Landing, target: str) -> None:
    inside = Guard(LOOPBACK, resolve=lambda _host, _port: ["10.0.0.7"])
    web.answers["/moved"] = redirect(target)
    with pytest.raises(SourceRefused):
        fetch(web.url("/moved"), landing, guard=inside)


def test_six_redirects_are_too_many_and_five_are_not(web: SourceServer, landing: Landing) -> None:
    web.answers |= {f"/{n}": redirect(f"/{n - 1}") for n in range(1, 7)} | {"/0": file(TALK)}
    fetch(web.url("/5"), landing)
    with pytest.raises(SourceUnreachable, match="more than 5 times"):
        fetch(web.url("/6"), landing)


@pytest.mark.parametrize("location", [None, "http://[", "http://\x80/"])
def test_a_redirect_to_nowhere_is_an_error_of_the_source(web: SourceServer, landing: Landing, location: str | None) -> None:
    web.answers["/moved"] = lambda visit: visit.say(302, **({} if location is None else {"Location": location}))
    with pytest.raises((CallerError, Interrupted)):  # httpx itself stumbles over some
        fetch(web.url("/moved"), landing)


def test_the_address_that_was_checked_is_the_one_that_is_reached(web: SourceServer, landing: Landing) -> None:
    """A resolver that answers well for the check and badly for the connection is asked once."""
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    fetch(web.url(host="rebound.example.org"), landing, guard=Guard(LOOPBACK, resolve=lambda _host, _port: next(answers)))
    assert next(answers) == ["127.0.0.2"]
    assert web.asked[0].headers["host"] == f"rebound.example.org:{web.port}"


def test_each_hop_is_resolved_and_checked_anew(web: SourceServer, landing: Landing) -> None:
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])
    web.answers["/moved"] = redirect("/talk.wav")
    with pytest.raises(SourceRefused):
        fetch(
            web.url("/moved", host="rebound.example.org"), landing, guard=Guard(LOOPBACK, resolve=lambda _host, _port: next(answers))
        )  # fmt: skip
    assert [asked.path for asked in web.asked] == ["/moved"]


def test_the_next_address_is_tried_when_the_first_does_not_answer(web: SourceServer, landing: Landing) -> None:
    both = Guard(("127.0.0.0/8",), resolve=lambda _host, _port: ["127.0.0.9", "127.0.0.1"])
    fetch(web.url(host="twice.example.org"), landing, guard=both)
    assert landed(landing) == digest(TALK)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 451, 204, 304])
def test_a_refusal_is_not_asked_again(web: SourceServer, landing: Landing, status: int) -> None:
    web.answers["/talk.wav"] = lambda visit: visit.head(status)
    with pytest.raises(SourceUnreachable, match=f"answered {status}"):
        fetch(web.url(), landing)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_passing_failure_is_worth_another_try(web: SourceServer, landing: Landing, status: int) -> None:
    web.answers["/talk.wav"] = lambda visit: visit.say(status)
    with pytest.raises(Interrupted, match=str(status)):
        fetch(web.url(), landing)


@pytest.mark.parametrize(
    ("said", "low", "high"),
    [
        ("120", 120, 120),
        ("Fri, 31 Dec 2100 23:59:59 GMT", 1e9, 1e10),
        ("soon", 0, 0),
        ("-5", 0, 0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0, 0),
        (f"Fri, 31 Dec {10**20} 23:59:59 GMT", 0, 0),
        (f"Fri, 31 Dec 2100 23:59:59 +{10**20}", 0, 0),
    ],
)
def test_retry_after_is_heard(web: SourceServer, landing: Landing, said: str, low: float, high: float) -> None:
    web.answers["/talk.wav"] = lambda visit: visit.say(429, Retry_After=said)
    with pytest.raises(Interrupted) as interrupted:
        fetch(web.url(), landing)
    assert low <= interrupted.value.after_s <= high


SECRET = b"token=hush " * 5000
CHATTY: dict[str, tuple[bytes, type[Exception]]] = {
    "a reason without end": (b"HTTP/1.1 404 " + SECRET + b"\r\n\r\n", SourceUnreachable),
    "no HTTP": (SECRET + b"\r\n\r\n", Interrupted),
    "a header that is none": (b"HTTP/1.1 200 OK\r\nSet-Cookie " + SECRET + b"\r\n\r\n", Interrupted),
    "a chunk that is none": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + SECRET + b"\r\n", Interrupted),
    "a place without a port": (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:token=hush/\r\n\r\n", Interrupted),
    "a host without end": (b"HTTP/1.1 302 Found\r\nLocation: http://" + b"a" * 60_000 + b"/\r\n\r\n", SourceRefused),
}


@pytest.mark.parametrize(("answer", "error"), CHATTY.values(), ids=CHATTY)
def test_what_a_server_says_is_not_repeated(web: SourceServer, landing: Landing, answer: bytes, error: type[Exception]) -> None:
    web.answers["/talk.wav"] = lambda visit: (visit.wfile.write(answer), None)[1]
    with pytest.raises(error) as raised:
        fetch(web.url(), landing)
    assert "hush" not in str(raised.value)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("host", ["xn--a", "xn--a.example.org"])
def test_a_host_that_is_written_as_no_name_is_refused(web: SourceServer, landing: Landing, host: str) -> None:
    web.answers["/talk.wav"] = redirect(f"http://{host}/")
    for url in (web.url(), f"http://{host}/"):
        with pytest.raises(SourceRefused, match="not a URL that can be reached"):
            fetch(url, landing)


def test_a_refusal_of_what_a_redirect_leads_to_says_so(web: SourceServer, landing: Landing) -> None:
    web.answers["/talk.wav"] = redirect("http://user:password@example.org/")
    with pytest.raises(SourceRefused, match="redirects to a URL that is not reached: the URL holds a user name"):
        fetch(web.url(), landing)


def test_nobody_there_is_worth_another_try(landing: Landing) -> None:
    with SourceServer() as gone:
        url = gone.url()
    with pytest.raises(Interrupted, match="cannot be connected to"):
        fetch(url, landing)


def test_a_certificate_that_nobody_signed_is_refused(landing: Landing) -> None:
    with (
        SourceServer({"/talk.wav": file(TALK)}, is_tls=True) as web,
        pytest.raises(SourceUnreachable, match=r"not valid \(self-signed certificate\)"),
    ):
        fetch(web.url(), landing)
    assert web.asked == []


def test_a_certificate_is_checked_for_the_name_not_the_address() -> None:
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    guard = Guard(LOOPBACK, resolve=lambda _host, _port: ["127.0.0.1"])
    with SourceServer({"/talk.wav": file(TALK)}, is_tls=True) as web, guarded_client(guard, tls=trusting) as client:
        assert client.get(web.url(host="source.test")).content == TALK
        with pytest.raises(httpx.ConnectError, match="Hostname mismatch"):
            client.get(web.url(host="other.test"))
        with pytest.raises(httpx.ConnectError, match="IP address mismatch"):
            client.get(web.url())


def test_a_downgrade_from_https_is_refused() -> None:
    answer = httpx.Response(302, headers={"Location": "http://example.org/"})
    with pytest.raises(SourceRefused, match="from https"):
        _target(httpx.URL("https://example.org/"), answer)
