"""What the service refuses to start with."""

import os
import subprocess
import sys

import pytest

from core.errors import SettingsError
from service.access import is_loopback
from service.wsgi import checked_settings
from tests.conftest import ROOT


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_is_listened_on(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.com", "localhost.evil.example"])
def test_open_access_is_for_loopback_only(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPILLWAY_HOST", host)
    monkeypatch.setenv("SPILLWAY_ACCESS", "open")
    with pytest.raises(SettingsError, match=r"SPILLWAY_ACCESS is open .* listen on loopback only"):
        checked_settings()


def test_with_keys_any_address_may_be_listened_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPILLWAY_HOST", "0.0.0.0")
    monkeypatch.setenv("SPILLWAY_API_KEY_SECRET", "s" * 32)
    assert checked_settings().host == "0.0.0.0"


def test_keys_need_something_to_be_hashed_with(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"SPILLWAY_API_KEY_SECRET is not set: run `python -m service.init DIR`"):
        checked_settings()
    monkeypatch.setenv("SPILLWAY_API_KEY_SECRET", "short")
    with pytest.raises(SettingsError, match="SPILLWAY_API_KEY_SECRET is wrong"):
        checked_settings()


def test_a_first_key_that_is_none_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPILLWAY_API_KEY_SECRET", "s" * 32)
    monkeypatch.setenv("SPILLWAY_FIRST_API_KEY", "hunter2")
    with pytest.raises(SettingsError, match="SPILLWAY_FIRST_API_KEY is no API key") as refused:
        checked_settings()
    assert "hunter2" not in str(refused.value)


def test_streams_must_leave_threads_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPILLWAY_ACCESS", "open")
    monkeypatch.setenv("SPILLWAY_SERVICE_THREADS", "10")
    with pytest.raises(SettingsError, match=r"SPILLWAY_EVENT_STREAMS_MAX is 48: with 10 threads .* at most 6"):
        checked_settings()


def test_a_refused_start_says_why_in_one_line() -> None:
    command = [sys.executable, "-m", "gunicorn", "--config", "service/gunicorn_conf.py", "service.wsgi:create()"]
    environment = {**os.environ, "SPILLWAY_HOST": "0.0.0.0", "SPILLWAY_ACCESS": "open"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert done.stderr.strip() == (
        "spillway service: SPILLWAY_ACCESS is open and SPILLWAY_HOST is 0.0.0.0: without keys listen on loopback only, as on 127.0.0.1,"
        " or set SPILLWAY_ACCESS=keys"
    )
