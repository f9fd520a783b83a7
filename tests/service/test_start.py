"""What the service refuses to start with."""

import os
import subprocess
import sys

import pytest

from core.errors import SettingsError
from service.edge import is_loopback
from service.wsgi import checked_settings
from tests.conftest import ROOT


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_is_listened_on(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.com", "localhost.evil.example"])
def test_everything_else_is_refused(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPILLWAY_HOST", host)
    with pytest.raises(SettingsError, match="listen on loopback only"):
        checked_settings()


def test_streams_must_leave_threads_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPILLWAY_SERVICE_THREADS", "10")
    with pytest.raises(SettingsError, match=r"SPILLWAY_EVENT_STREAMS_MAX is 48: with 10 threads .* at most 6"):
        checked_settings()


def test_a_refused_start_says_why_in_one_line() -> None:
    command = [sys.executable, "-m", "gunicorn", "--config", "service/gunicorn_conf.py", "service.wsgi:create()"]
    environment = {**os.environ, "SPILLWAY_HOST": "0.0.0.0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode != 0
    assert done.stderr.strip() == (
        "spillway service: SPILLWAY_HOST is 0.0.0.0: API keys are not there yet, so listen on loopback only, as on 127.0.0.1"
    )
