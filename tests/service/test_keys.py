"""API keys by hand: the command, as an administrator types it."""

import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

from core.api_keys import KeyLimits, Scope, parsed
from service import keys
from tests.conftest import ROOT
from tests.service.box import Box


@pytest.fixture
def at_its_redis(guarded: Box, monkeypatch: pytest.MonkeyPatch) -> Box:
    """The command finds the Redis and the hashing secret of the box."""
    monkeypatch.setenv("SPILLWAY_REDIS_URL", guarded.settings.redis_url)
    monkeypatch.setenv("SPILLWAY_API_KEY_SECRET", "s" * 32)
    return guarded


@pytest.mark.parametrize(
    ("options", "scope"), [([], Scope.SUBMIT), (["--scope", "submit"], Scope.SUBMIT), (["--scope", "admin"], Scope.ADMIN)]
)
def test_a_key_is_shown_once_and_is_good(at_its_redis: Box, capsys: pytest.CaptureFixture[str], options: list[str], scope: Scope) -> None:
    assert keys.main(["create", "alice", *options]) == 0
    shown = capsys.readouterr()
    record = at_its_redis.keys.verify(shown.out.strip())
    assert (record.name, record.scope) == ("alice", scope)
    assert "shown this once" in shown.err
    assert keys.main(["list"]) == 0
    key = parsed(shown.out.strip())
    assert key is not None
    assert key.secret not in capsys.readouterr().out


def test_a_pipe_gets_a_line_for_each_key(at_its_redis: Box, capsys: pytest.CaptureFixture[str]) -> None:
    alice, bob = (at_its_redis.keys.create(name, Scope.SUBMIT) for name in ("alice", "[bold]bob[/bold]"))
    assert keys.main(["revoke", alice.id]) == 0
    assert f"revoked {alice.id} (alice)" in capsys.readouterr().out
    assert keys.main(["list"]) == 0
    first, second = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert (first[:3], second[:3]) == ([alice.id, "alice", "submit"], [bob.id, "[bold]bob[/bold]", "submit"])
    assert (first[4].endswith("Z"), second[4:]) == (True, ["", "", "", ""])


@pytest.mark.parametrize(
    ("options", "shown", "limits"),
    [
        ([], ["", "", ""], KeyLimits()),
        (["--requests-per-minute", "30", "--max-jobs", "7"], ["30", "7", ""], KeyLimits(requests_per_minute=30, max_jobs=7)),
        (["--requests-per-minute", "0", "--max-jobs", "0"], ["0", "0", ""], KeyLimits(requests_per_minute=0, max_jobs=0)),
        (["--high-priority"], ["", "", "yes"], KeyLimits(high_priority=True)),
        (["--scope", "admin"], ["", "", "yes"], KeyLimits()),
        (["--scope", "admin", "--no-high-priority"], ["", "", ""], KeyLimits(high_priority=False)),
    ],
)
def test_a_key_may_have_limits_of_its_own(
    at_its_redis: Box, capsys: pytest.CaptureFixture[str], options: list[str], shown: list[str], limits: KeyLimits
) -> None:
    assert keys.main(["create", "alice", *options]) == 0
    assert at_its_redis.keys.verify(capsys.readouterr().out.strip()).limits == limits
    assert keys.main(["list"]) == 0
    assert capsys.readouterr().out.rstrip("\n").split("\t")[5:] == shown


def test_a_reader_that_has_had_enough_is_no_error_to_speak_of(at_its_redis: Box) -> None:
    at_its_redis.keys.create("alice", Scope.SUBMIT)
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "service.keys", "list"]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.stderr == ""


def test_a_terminal_gets_a_table(at_its_redis: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    key = at_its_redis.keys.create("[bold]bob[/bold]", Scope.ADMIN)
    terminal = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=120)
    monkeypatch.setattr(keys, "out", terminal)
    assert keys.main(["list"]) == 0
    heading, row = terminal.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert heading.split() == ["id", "name", "scope", "created", "revoked", "requests/min", "jobs", "high", "priority"]
    assert row.split()[:3] == [key.id, "[bold]bob[/bold]", "admin"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["revoke", "nobody"], "there is no API key 'nobody'"),
        (["create", "a\nb"], "a key's name has"),
        (["create", ""], "a key's name has"),
    ],
)
@pytest.mark.usefixtures("at_its_redis")
def test_what_cannot_be_done_is_one_line_and_status_1(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys.main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {said}")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["create"],
        ["create", "alice", "--scope", "root"],
        ["create", "alice", "--max-jobs", "-1"],
        ["create", "alice", "--max-jobs", "many"],
        ["create", "alice", "--max-jobs", "1" + "0" * 6000],
        ["create", "alice", "--requests-per-minute", "60001"],
        ["revoke"],
    ],
)
def test_a_wrong_command_line_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        keys.main(arguments)
    assert exited.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_without_a_hashing_secret_it_says_how_to_make_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert keys.main(["list"]) == 1
    assert "python -m service.init DIR" in capsys.readouterr().err
