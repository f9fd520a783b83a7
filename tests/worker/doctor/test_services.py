"""Redis, the file store and Modal's token, by real servers and folders."""

from pathlib import Path

import pytest
from redis import Redis

from core.settings import Settings
from tests.conftest import RedisServer, files_in, free_port
from tests.gcs_server import CloudServer, Fault, Reply
from worker.doctor.findings import Finding, Verdict
from worker.doctor.services import file_store_finding, modal_finding, redis_findings


def examined(url: str) -> dict[str, Finding]:
    return {finding.check: finding for finding in redis_findings(Settings(redis_url=url))}


def configure(server: RedisServer, name: str, value: str) -> None:
    with Redis.from_url(server.url) as redis:
        redis.config_set(name, value)


def test_a_redis_that_keeps_every_write_passes(redis_url: str) -> None:
    lines = examined(redis_url)
    assert {line.verdict for line in lines.values()} == {Verdict.OK}
    assert lines["Redis durability"].found == "appendonly yes, appendfsync always"
    assert "Valkey 9.1" in lines["Redis"].found


@pytest.mark.parametrize(
    ("check", "name", "value", "right"),
    [
        ("Redis durability", "appendfsync", "everysec", "always"),
        ("Redis durability", "appendonly", "no", "yes"),
        ("Redis eviction", "maxmemory-policy", "allkeys-lru", "noeviction"),
    ],
)
def test_a_redis_that_may_forget_is_warned_of(check: str, name: str, value: str, right: str, redis_server: RedisServer) -> None:
    configure(redis_server, name, value)
    line = examined(redis_server.url)[check]
    assert line.verdict is Verdict.WARNING
    assert f"{name} {value}" in line.found
    assert line.remedy.startswith(f"`redis-cli CONFIG SET {name} {right}`, and the same")


def test_a_redis_that_forbids_config_says_nothing_and_shows_no_password(redis_server: RedisServer) -> None:
    with Redis.from_url(redis_server.url) as redis:
        redis.execute_command("ACL", "SETUSER", "spillway", "on", ">hush-hush", "~*", "&*", "+@all", "-config")
    lines = examined(redis_server.url.replace("127", "spillway:hush-hush@127"))
    assert lines["Redis"].verdict is Verdict.OK
    assert lines["Redis"].found.startswith(redis_server.url)
    assert lines["Redis durability"] == Finding("Redis durability", Verdict.NOT_CHECKED, "not told: this Redis forbids CONFIG")


@pytest.mark.parametrize("url", ["redis://:hush-hush@127.0.0.1:{port}/0", "redis://127.0.0.1:{port}/0?password=hush-hush"])
def test_a_redis_that_is_away_is_a_fault_without_its_password(url: str) -> None:
    port = free_port()
    lines = examined(url.format(port=port))
    assert lines["Redis"].verdict is Verdict.WRONG
    assert lines["Redis"].found.startswith(f"redis://127.0.0.1:{port}/0 does not answer")
    assert "SPILLWAY_REDIS_URL" in lines["Redis"].remedy
    assert not any("hush" in line.found + line.remedy for line in lines.values())
    assert lines["Redis eviction"].verdict is Verdict.NOT_CHECKED


def test_an_address_that_is_none_is_a_fault() -> None:
    assert examined("127.0.0.1:6379")["Redis"].verdict is Verdict.WRONG


def test_a_file_store_is_written_to_and_left_as_it_was(tmp_path: Path) -> None:
    line = file_store_finding(Settings(file_store_dir=tmp_path, max_upload_bytes=1))
    assert line.verdict is Verdict.OK
    assert line.found.startswith(f"{tmp_path}, ")
    assert files_in(tmp_path) == []


def test_a_file_store_that_cannot_be_written_is_a_fault() -> None:
    folder = Path("/sys/spillway")  # where not even root may
    line = file_store_finding(Settings(file_store_dir=folder))
    assert line.verdict is Verdict.WRONG
    assert line.found.startswith(f"{folder} cannot be written: ")
    assert "SPILLWAY_FILE_STORE_DIR" in line.remedy


def test_a_file_store_without_room_for_the_largest_upload_is_warned_of(tmp_path: Path) -> None:
    line = file_store_finding(Settings(file_store_dir=tmp_path, max_upload_bytes=10**18))
    assert line.verdict is Verdict.WARNING
    assert "SPILLWAY_MAX_UPLOAD_BYTES" in line.remedy


def test_a_bucket_is_written_to_and_left_as_it_was(cloud: CloudServer, bucket: str, tmp_path: Path) -> None:
    line = file_store_finding(Settings(file_store=f"gs://{bucket}/spillway", file_store_dir=tmp_path, max_upload_bytes=1))
    assert line.verdict is Verdict.OK
    assert line.found.startswith(f"gs://{bucket}/spillway, by way of {tmp_path}, ")
    assert cloud.names(bucket) == []


@pytest.mark.parametrize(
    ("status", "verdict", "remedy"),
    [
        (403, Verdict.WRONG, "roles/storage.objectUser"),
        (401, Verdict.WRONG, "SPILLWAY_GCS_CREDENTIALS_FILE"),
        (404, Verdict.WRONG, "names"),
    ],
)
def test_a_bucket_that_denies_us_is_a_fault(
    cloud: CloudServer, bucket: str, tmp_path: Path, status: int, verdict: Verdict, remedy: str
) -> None:
    cloud.faults = [Fault(".", 99, Reply(status, {}, b"no"))]
    line = file_store_finding(Settings(file_store=f"gs://{bucket}/spillway", file_store_dir=tmp_path))
    assert line.verdict is verdict
    assert bucket in line.found
    assert remedy in line.remedy


def test_a_bucket_that_is_away_for_the_moment_is_warned_of(cloud: CloudServer, bucket: str, tmp_path: Path) -> None:
    cloud.faults = [Fault(".", 99, Reply(507, {}, b"no"))]
    line = file_store_finding(Settings(file_store=f"gs://{bucket}/spillway", file_store_dir=tmp_path))
    assert line.verdict is Verdict.WARNING
    assert "storage.googleapis.com" in line.remedy


@pytest.mark.parametrize(
    ("token", "secret", "verdict", "found"),
    [
        (None, None, Verdict.OK, "not given to the worker: bursts are off, or the dispatcher alone has it"),
        ("ak-1", None, Verdict.WRONG, "only its id is set"),
        (None, "as-1", Verdict.WRONG, "only its secret is set"),
        ("as-1", "ak-1", Verdict.WRONG, "the id does not begin with ak-, or the secret not with as-"),
        ("ak-1", "as-1", Verdict.OK, "configured"),
    ],
)
def test_half_a_modal_token_is_a_fault(token: str | None, secret: str | None, verdict: Verdict, found: str) -> None:
    line = modal_finding(Settings(modal_token_id=token, modal_token_secret=secret))
    assert (line.verdict, line.found) == (verdict, found)
    assert verdict is Verdict.OK or "SPILLWAY_MODAL_TOKEN_SECRET" in line.remedy
