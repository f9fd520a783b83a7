"""The client where a key is asked for, and where somebody would like to have it."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import pytest

from client.api import SpillwayClient
from client.cli import main
from client.errors import ServiceBusy, ServiceRefused, SpillwayError
from core.api_keys import ApiKeys, KeyLimits, KeySecrets, Scope, new_key
from core.redis_steps import connect
from tests.conftest import RedisServer
from tests.service.box import RunningService, running_service, wav

KEY = new_key().text


@pytest.fixture(scope="module")
def guarded(redis_session: RedisServer, tmp_path_factory: pytest.TempPathFactory, ffmpeg: str) -> Iterator[RunningService]:
    keys = {"SPILLWAY_ACCESS": "keys", "SPILLWAY_API_KEY_SECRET": "s" * 32, "SPILLWAY_FIRST_API_KEY": KEY}
    with running_service(redis_session.url, tmp_path_factory.mktemp("guarded"), ffmpeg, **keys) as running:
        yield running


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "talk.wav"
    path.write_bytes(wav(2))
    return path


@pytest.mark.parametrize("spelled", [KEY, f" {KEY}\r\n"], ids=["as made", "with blanks"])
def test_a_client_with_a_key_is_served(guarded: RunningService, recording: Path, spelled: str) -> None:
    with SpillwayClient(guarded.url, api_key=spelled) as client:
        job = client.submit(recording)
        assert client.cancel(job.id).state == "cancelled"
        assert client.wait(job.id).state == "cancelled"


@pytest.mark.parametrize("key", [None, "", new_key().text], ids=["none", "empty", "unknown"])
def test_a_client_without_a_good_key_hears_how_to_get_one(guarded: RunningService, recording: Path, key: str | None) -> None:
    with SpillwayClient(guarded.url, api_key=key) as client, pytest.raises(ServiceRefused, match=r"service\.keys create NAME") as refused:
        client.submit(recording)
    assert (refused.value.code, refused.value.status) == ("unauthorized", 401)


def test_the_command_reads_its_key_from_the_environment(
    guarded: RunningService, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["queue", "--url", guarded.url]) == 1
    assert "(`spillway` sends the key in SPILLWAY_API_KEY)" in capsys.readouterr().err
    monkeypatch.setenv("SPILLWAY_API_KEY", KEY)
    assert main(["queue", "--url", guarded.url]) == 0


@pytest.mark.parametrize("key", ["spillway_é", "spillway_a\nX-Evil: 1", "spillway_\x00"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(SpillwayError, match="copy it once more") as refused:
        SpillwayClient(api_key=key)
    assert key not in str(refused.value)


@pytest.fixture
def limited(guarded: RunningService, redis_url: str) -> Iterator[SpillwayClient]:
    """The client of a key that may send a request a second, once it has sent those of its first minute."""
    with connect(redis_url) as redis:
        key = ApiKeys(redis, KeySecrets("s" * 32, first=None)).create("limited", Scope.SUBMIT, KeyLimits(requests_per_minute=60))
    with SpillwayClient(guarded.url, api_key=key.text) as client:
        yield client


def spend_all(client: SpillwayClient) -> None:
    with pytest.raises(ServiceBusy, match="60 requests a minute"):
        deque((client.queue() for _ in count()), maxlen=0)


def test_a_client_that_sends_too_often_waits_and_sends_again(limited: SpillwayClient, recording: Path) -> None:
    spend_all(limited)
    assert limited.submit(recording).state == "queued"


def test_waiting_bears_a_limit_on_requests(limited: SpillwayClient, recording: Path) -> None:
    job = limited.submit(recording)
    limited.cancel(job.id)
    spend_all(limited)
    assert limited.wait(job.id).state == "cancelled"


def test_a_client_waits_for_no_longer_than_a_minute_and_not_for_ever(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with Host(status=429, retry_after="86400") as busy, SpillwayClient(busy.url) as client, pytest.raises(ServiceBusy):
        client.submit(recording)
    assert pauses == [60.0] * 4


def test_the_command_says_what_it_waits_for_before_it_tries_again(
    recording: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with Host(status=429, retry_after="7") as busy:
        for given in (str(recording), "https://example.org/talk.mp3"):
            assert main(["submit", given, "--url", busy.url]) == 1
            said = "spillway: the service answered 429 Too Many Requests"
            assert capsys.readouterr().err.splitlines() == [f"{said} (next try in 7 s)"] * 4 + [said]


class Host:
    """A server that notes who came with which key, and sends everybody on if it has somewhere to send them."""

    def __init__(self, location: str = "", *, status: int = 0, retry_after: str = "0") -> None:
        self.keys: list[str | None] = []
        host = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.keys.append(self.headers["Authorization"])
                self.send_response(status or (307 if location else 200))
                self.send_header("Location", location + self.path)
                self.send_header("Retry-After", retry_after)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Host":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_a_key_goes_to_no_other_host() -> None:
    with Host() as thief, Host(thief.url) as known, SpillwayClient(known.url, api_key=KEY) as client:
        with pytest.raises(ServiceRefused, match="307") as refused:
            client.queue()
        assert (known.keys, thief.keys, refused.value.status) == ([f"Bearer {KEY}"], [], 307)
