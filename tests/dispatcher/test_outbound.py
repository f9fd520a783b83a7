"""The guarded client as whoever sends something uses it: one request, no redirect, nothing private."""

import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from core.errors import SourceRefused
from dispatcher.guard import Guard
from dispatcher.outbound import guarded_client
from tests.dispatcher.source_server import SourceServer, Visit, redirect

TLS = httpx.create_ssl_context(trust_env=False)
LOOPBACK = Guard(("127.0.0.1/32",))


@pytest.fixture
def server() -> Iterator[SourceServer]:
    with SourceServer({"/hook": lambda visit: visit.say(200, b"thank you")}) as running:
        yield running


def test_what_is_posted_arrives_and_the_answer_comes_back(server: SourceServer) -> None:
    with guarded_client(LOOPBACK, tls=TLS) as client:
        answer = client.post(server.url("/hook"), content=b"{}", headers={"webhook-id": "1"})
    assert (answer.status_code, answer.content) == (200, b"thank you")
    assert (server.asked[0].content, server.asked[0].headers["webhook-id"]) == (b"{}", "1")


def test_a_redirect_is_an_answer_and_is_not_followed(server: SourceServer) -> None:
    server.answers["/moved"] = redirect("/hook", 307)
    with guarded_client(LOOPBACK, tls=TLS) as client:
        assert client.post(server.url("/moved"), content=b"{}").status_code == 307
    assert [asked.path for asked in server.asked] == ["/moved"]


def test_nothing_is_sent_to_a_private_address(server: SourceServer) -> None:
    with guarded_client(Guard(), tls=TLS) as client, pytest.raises(SourceRefused):
        client.post(server.url("/hook"), content=b"secret")
    assert server.asked == []


def test_every_request_is_checked_anew(server: SourceServer) -> None:
    answers = iter([["127.0.0.1"], ["10.0.0.1"]])
    rebinding = Guard(("127.0.0.1/32",), resolve=lambda _host, _port: next(answers))
    url = server.url("/hook", host="hooks.example.org")
    with guarded_client(rebinding, tls=TLS) as client:
        assert client.post(url).status_code == 200
        with pytest.raises(SourceRefused):
            client.post(url)
    assert len(server.asked) == 1


def test_what_the_watch_raises_ends_the_wait(server: SourceServer) -> None:
    class Enough(Exception):
        """The test's own deadline."""

    late, released = threading.Event(), threading.Event()

    def silence(_visit: Visit) -> None:
        threading.Timer(0.2, late.set).start()  # by then the read has begun
        released.wait(20)

    def watch() -> None:
        if late.is_set():
            raise Enough

    server.answers["/hook"] = silence

    began = time.monotonic()
    with guarded_client(LOOPBACK, tls=TLS, watch=watch) as client, pytest.raises(Enough):
        client.post(server.url("/hook"))
    assert time.monotonic() - began < 3
    released.set()
