"""The client where a key is asked for, and where somebody would like to have it."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from client.api import SpillwayClient
from client.cli import main
from client.errors import ServiceRefused, SpillwayError
from core.api_keys import new_key
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


class Host:
    """A server that notes who came with which key, and sends everybody on if it has somewhere to send them."""

    def __init__(self, location: str = "") -> None:
        self.keys: list[str | None] = []
        host = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.keys.append(self.headers["Authorization"])
                self.send_response(307 if location else 200)
                self.send_header("Location", location + self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()

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
