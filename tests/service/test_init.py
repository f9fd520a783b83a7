"""The secrets of a new installation: made once, completed when cut short, never replaced."""

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, ConnectionError

from core.api_keys import parsed
from core.settings import Settings
from service import init
from tests.conftest import ROOT, VALKEY, free_port, wait_for

NAMES = ("api_key", "api_key_secret", "redis.conf", "redis_url", "webhook_secret")


def contents(folder: Path) -> dict[str, str]:
    """Hidden files as well: a draft must not be left."""
    return {path.name: path.read_text() for path in folder.iterdir()}


def run(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "service.init", str(folder), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)


def passwords(folder: Path) -> set[str]:
    return set(re.findall(r"[0-9a-f]{64}", (folder / "redis.conf").read_text() + (folder / "redis_url").read_text()))


def test_a_first_run_makes_what_the_settings_then_read(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "spillway"
    assert init.main([str(folder), "--redis-host", "cache", "--redis-port", "6380"]) == 0
    assert tuple(sorted(contents(folder))) == NAMES
    settings = Settings.from_environment(
        {
            "SPILLWAY_REDIS_URL_FILE": str(folder / "redis_url"),
            "SPILLWAY_API_KEY_SECRET_FILE": str(folder / "api_key_secret"),
            "SPILLWAY_FIRST_API_KEY_FILE": str(folder / "api_key"),
            "SPILLWAY_WEBHOOK_SECRET_FILE": str(folder / "webhook_secret"),
        }
    )
    (password,) = passwords(folder)
    assert settings.redis_url == f"redis://:{password}@cache:6380/0"
    assert parsed(settings.first_api_key or "")
    assert len(settings.api_key_secret or "") == 64


def test_the_keys_may_lie_where_the_worker_does_not_read(tmp_path: Path) -> None:
    folders = ["--keys-folder", str(tmp_path / "service"), "--signing-folder", str(tmp_path / "signing")]
    assert init.main([str(tmp_path / "all"), *folders]) == 0
    assert sorted(contents(tmp_path / "all")) == ["redis.conf", "redis_url"]
    assert sorted(contents(tmp_path / "service")) == ["api_key", "api_key_secret"]
    assert sorted(contents(tmp_path / "signing")) == ["webhook_secret"]


def test_redis_takes_the_password_of_its_file_and_no_other(tmp_path: Path) -> None:
    port = free_port()
    assert init.main([str(tmp_path), "--redis-host", "127.0.0.1", "--redis-port", str(port)]) == 0
    command = [VALKEY, tmp_path / "redis.conf", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", tmp_path]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        try:
            with (
                Redis.from_url((tmp_path / "redis_url").read_text().strip(), retry=None) as known,
                Redis(port=port, retry=None) as stranger,
            ):
                wait_for(lambda: _answers(known), "the server to answer")
                with pytest.raises(AuthenticationError):
                    stranger.ping()
        finally:
            server.kill()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_only_the_owner_reads_the_files_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        assert init.main([str(tmp_path)]) == 0
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {"0o600"}


def test_a_second_run_changes_nothing_and_says_so(tmp_path: Path) -> None:
    first = run(tmp_path)
    made = contents(tmp_path)
    second = run(tmp_path, "--redis-host", "elsewhere")
    assert contents(tmp_path) == made
    assert (first.returncode, second.returncode) == (0, 0)
    assert "nothing_to_do" in second.stderr
    assert "nothing_to_do" not in first.stderr


def test_the_log_ends_with_the_command_that_shows_the_key_and_holds_no_secret(tmp_path: Path) -> None:
    said = run(tmp_path)
    assert f"docker compose exec service cat {tmp_path}/api_key" in said.stderr.splitlines()[-1]
    values = [(tmp_path / "api_key").read_text().strip(), (tmp_path / "api_key_secret").read_text().strip(), *passwords(tmp_path)]
    assert [value for value in values if value in said.stdout + said.stderr] == []


@pytest.mark.parametrize("missing", [("redis.conf",), ("redis_url",), ("api_key",), ("api_key_secret", "api_key"), NAMES])
def test_what_a_run_that_was_cut_short_left_out_is_completed(tmp_path: Path, missing: tuple[str, ...]) -> None:
    init.main([str(tmp_path)])
    before = contents(tmp_path)
    for name in missing:
        (tmp_path / name).unlink()
    assert init.main([str(tmp_path)]) == 0
    after = contents(tmp_path)
    assert tuple(sorted(after)) == NAMES
    assert {name: after[name] for name in NAMES if name not in missing} == {name: before[name] for name in NAMES if name not in missing}
    assert len(passwords(tmp_path)) == 1


def test_a_run_on_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    command = ["sh", "-c", 'ulimit -f 0; exec "$0" -m service.init "$1"', sys.executable, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, contents(tmp_path)) == (1, {})
    assert "can write to, on a disk with room" in done.stderr


def test_a_file_that_another_run_made_meanwhile_stays(tmp_path: Path) -> None:
    path = tmp_path / "api_key"

    def overtaken() -> str:
        path.write_text("theirs")
        return "ours"

    assert not init._once(path, overtaken)
    assert contents(tmp_path) == {"api_key": "theirs"}


def test_two_runs_at_once_agree(tmp_path: Path) -> None:
    runs = [threading.Thread(target=init.fill, args=(tmp_path, "redis:6379", init.Places(tmp_path, tmp_path))) for _ in range(8)]
    for each in runs:
        each.start()
    for each in runs:
        each.join()
    assert tuple(sorted(contents(tmp_path))) == NAMES
    assert len(passwords(tmp_path)) == 1


def _taken_by_a_file(folder: Path) -> str:
    folder.write_text("")
    return "name a folder"


def _of_a_disk_that_takes_nothing(folder: Path) -> str:
    folder.symlink_to("/proc/self")
    return "name a folder"


def _with_two_passwords(folder: Path) -> str:
    init.main([str(folder)])
    (folder / "redis_url").write_text("redis://:another@redis:6379/0\n")
    return "hold different passwords: remove redis_url"


def _without_a_password(folder: Path) -> str:
    init.main([str(folder)])
    (folder / "redis.conf").write_text("appendonly yes\n")
    return "redis.conf holds no password"


@pytest.mark.parametrize("spoil", [_taken_by_a_file, _of_a_disk_that_takes_nothing, _with_two_passwords, _without_a_password])
def test_a_folder_that_does_not_do_is_said_with_its_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], str]
) -> None:
    folder = tmp_path / "folder"
    remedy = spoil(folder)
    capsys.readouterr()
    assert init.main([str(folder)]) == 1
    said = capsys.readouterr().err
    assert remedy in said
    assert "Traceback" not in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(
    ("mode", "said"), [(0o755, "belongs to user 0, and this runs as user 65534: chown -R 65534"), (0o700, "user 65534 can")]
)
def test_a_folder_of_another_user_is_said_with_both(capsys: pytest.CaptureFixture[str], mode: int, said: str) -> None:
    with tempfile.TemporaryDirectory() as above:  # pytest's own folders are closed to others
        folder = Path(above) / "run"
        folder.mkdir()
        Path(above).chmod(mode)
        os.seteuid(65534)
        try:
            status = init.main([str(folder)])
        finally:
            os.seteuid(0)
    assert status == 1
    assert said in capsys.readouterr().err


def _answers(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except ConnectionError:
        return False
