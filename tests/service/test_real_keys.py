"""A real gunicorn that wants API keys, with the secrets that `service.init` made."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from core.api_keys import ApiKeys, Scope, key_secrets, new_key
from core.redis_steps import connect
from core.settings import Settings
from service import init
from tests.conftest import RedisServer, wait_for
from tests.service.box import RunningService, running_service, wav


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("secrets")
    assert init.main([str(folder)]) == 0
    return {
        "SPILLWAY_ACCESS": "keys",
        "SPILLWAY_API_KEY_SECRET_FILE": str(folder / "api_key_secret"),
        "SPILLWAY_FIRST_API_KEY_FILE": str(folder / "api_key"),
    }


@pytest.fixture(scope="module")
def service(
    redis_session: RedisServer, tmp_path_factory: pytest.TempPathFactory, ffmpeg: str, secrets: dict[str, str]
) -> Iterator[RunningService]:
    few = {"SPILLWAY_SERVICE_THREADS": "8", "SPILLWAY_EVENT_STREAMS_MAX": "3"}
    with running_service(redis_session.url, tmp_path_factory.mktemp("service"), ffmpeg, **few, **secrets) as running:
        yield running


@pytest.fixture
def first(secrets: dict[str, str]) -> dict[str, str]:
    return {"Authorization": f"Bearer {Path(secrets['SPILLWAY_FIRST_API_KEY_FILE']).read_text().strip()}"}


def test_the_first_key_opens_and_keys_made_by_hand_see_their_own(
    service: RunningService, redis_url: str, secrets: dict[str, str], first: dict[str, str]
) -> None:
    with connect(redis_url) as redis:
        made = ApiKeys(redis, key_secrets(Settings.from_environment(secrets)))
        alice, bob = ({"Authorization": f"Bearer {made.create(name, Scope.SUBMIT).text}"} for name in ("alice", "bob"))
        sent = httpx.post(f"{service.url}/v1/jobs", files={"file": ("a.wav", wav(1))}, headers=alice, timeout=20)
        assert sent.status_code == 202, sent.text
        seen = [len(httpx.get(f"{service.url}/v1/jobs", headers=who).json()["jobs"]) for who in (alice, bob, first)]
        assert seen == [1, 0, 1]
        made.revoke(alice["Authorization"].split("_")[1])
        assert httpx.get(f"{service.url}/v1/jobs", headers=alice).status_code == 401


def test_the_log_says_the_access_and_shows_no_secret(service: RunningService, secrets: dict[str, str], first: dict[str, str]) -> None:
    assert httpx.get(f"{service.url}/v1/queue", headers=first).status_code == 200
    wait_for(lambda: '"key_id": ' in service.log.read_text(), "the request's line")
    log = service.log.read_text()
    (starting,) = [line for line in map(json.loads, log.splitlines()) if line["event"] == "starting"]
    assert (starting["access"], starting["host"]) == ("keys", "127.0.0.1")
    hidden = [Path(path).read_text().strip() for name, path in secrets.items() if name.endswith("_FILE")]
    assert [secret for secret in hidden if secret in log] == []


def test_a_stranger_who_sends_on_and_on_reads_why(service: RunningService) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(1024**2)

    response = httpx.post(f"{service.url}/v1/jobs", content=endless(), timeout=20)
    assert (response.status_code, response.json()["code"]) == (401, "unauthorized")


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\nConnection: close\r\n\r\n", 401),
        (b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 401),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 200),
        (b"nonsense\r\n\r\n", 400),
    ],
    ids=["with a body that does not come", "refused", "answered", "by an old protocol", "with nonsense"],
)
def test_strangers_who_do_not_hang_up_hold_nobody_up(service: RunningService, asked: bytes, status: int) -> None:
    with ExitStack() as opened:
        strangers = [opened.enter_context(socket.create_connection(("127.0.0.1", port_of(service)))) for _ in range(4)]
        for stranger in strangers:
            stranger.sendall(asked)
        for stranger in strangers:
            assert int(stranger.recv(12).split()[1]) == status
        for _ in range(10):
            assert httpx.get(f"{service.url}/healthz", timeout=0.9).status_code == 200  # each of them lingers for a second


def test_strangers_who_never_end_their_question_are_let_go(service: RunningService) -> None:
    with ExitStack() as opened:
        for _ in range(8):  # one for each thread
            stranger = opened.enter_context(socket.create_connection(("127.0.0.1", port_of(service)), timeout=20))
            stranger.sendall(b"GET / HTTP/1.1\r\n")
        assert stranger.recv(1) == b""
        assert httpx.get(f"{service.url}/healthz", timeout=5).status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        [f"Bearer {new_key().text}"] * 2,
        ["Bearer \xe9\xff"],
        ["Bearer " + "a" * 10_000],
        ["Bearer " + "a" * 8_000],
        ["Bearer \x00"],
        ["bearer nonsense"],
        [""],
        ["\t"],
    ],
    ids=["two headers", "Latin-1", "10 kB", "8 kB", "a zero byte", "lower case", "nothing", "a tab"],
)
def test_an_odd_header_is_the_callers_fault(service: RunningService, fields: list[str]) -> None:
    headers = "".join(f"Authorization: {field}\r\n" for field in fields).encode("latin-1")
    with socket.create_connection(("127.0.0.1", port_of(service)), timeout=10) as client:
        client.sendall(b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + headers + b"\r\n")
        status = int(client.recv(4096).split()[1])
    assert 400 <= status < 500


def port_of(service: RunningService) -> int:
    return int(service.url.rpartition(":")[2])
