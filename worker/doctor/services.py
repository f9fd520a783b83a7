"""What the worker stands on besides its own files: Redis, the file store, and Modal where it is configured."""

from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

from packaging.version import InvalidVersion, Version
from redis.exceptions import RedisError, ResponseError

from core.errors import DiskFull, StorageDenied, StorageUnavailable
from core.redis_steps import RedisClient, connect
from core.settings import Settings
from core.storage import open_file_store
from worker.doctor.findings import Finding, Verdict

REDIS = Version("7.2")  # the oldest that redis-py 8 supports
PATIENCE_S = 5.0
DURABLE = {"appendonly": "yes", "appendfsync": "always"}
KEEPING = {"maxmemory-policy": "noeviction"}
GIGABYTE = 1e9


def redis_findings(settings: Settings) -> Iterator[Finding]:
    try:
        with closing(connect(settings.redis_url, timeout_s=PATIENCE_S, retries=0)) as redis:
            yield _version(redis, settings)
            told = _configuration(redis)
    except (RedisError, OSError, ValueError) as error:  # ValueError: what is no address
        remedy = "start Redis, or set SPILLWAY_REDIS_URL to where it is (redis://:PASSWORD@HOST:PORT/0)"
        yield Finding("Redis", Verdict.WRONG, f"{_address(settings.redis_url)} does not answer: {error}", remedy)
        yield from (Finding(check, Verdict.NOT_CHECKED, "Redis does not answer") for check in ("Redis durability", "Redis eviction"))
        return
    yield _held_to("Redis durability", DURABLE, told, "a job that got 202 would be lost with a power cut")
    yield _held_to("Redis eviction", KEEPING, told, "a full Redis would forget jobs in place of refusing new ones")


def file_store_finding(settings: Settings) -> Finding:
    """Writes and removes one file, as an upload does: on the volume, or in the bucket by way of the folder."""
    folder = settings.file_store_dir
    try:
        files = open_file_store(settings)
        files.write("doctor", b"written by the doctor")
        files.delete("doctor")
        free = files.free_bytes()
    except StorageUnavailable as error:
        return _bucket_fault(settings, error)
    except (OSError, DiskFull) as error:
        remedy = "let the worker's user write there (`chown`, or mount a volume), or set SPILLWAY_FILE_STORE_DIR to a folder where it may"
        return Finding("file store", Verdict.WRONG, f"{folder} cannot be written: {error}", remedy)
    bucket = f"{settings.file_store}, by way of " if settings.file_store else ""
    found = f"{bucket}{folder}, {free / GIGABYTE:.1f} GB free"
    if free < settings.max_upload_bytes:
        remedy = f"free some space: one upload may have {settings.max_upload_bytes / GIGABYTE:.1f} GB (SPILLWAY_MAX_UPLOAD_BYTES)"
        return Finding("file store", Verdict.WARNING, found, remedy)
    return Finding("file store", Verdict.OK, found)


def modal_finding(settings: Settings) -> Finding:
    """By its looks alone: nothing here asks Modal."""
    token, secret = settings.modal_token_id, settings.modal_token_secret
    remedy = "set SPILLWAY_MODAL_TOKEN_ID (ak-…) and SPILLWAY_MODAL_TOKEN_SECRET (as-…), both as `modal token new` shows them, or neither"
    if not token and not secret:
        return Finding("Modal token", Verdict.OK, "not given to the worker: bursts are off, or the dispatcher alone has it")
    if not token or not secret:
        return Finding("Modal token", Verdict.WRONG, f"only its {'id' if token else 'secret'} is set", remedy)
    if not (token.startswith("ak-") and secret.startswith("as-")):
        return Finding("Modal token", Verdict.WRONG, "the id does not begin with ak-, or the secret not with as-", remedy)
    return Finding("Modal token", Verdict.OK, "configured")


def _bucket_fault(settings: Settings, error: StorageUnavailable) -> Finding:
    """One that is away for the moment makes no worker unfit: jobs wait for it."""
    found = f"{settings.file_store}: {error}"
    if isinstance(error, StorageDenied):
        remedy = (
            "set SPILLWAY_GCS_CREDENTIALS_FILE to a service account's key, or attach the account to this machine,"
            " and grant it roles/storage.objectUser on the bucket that SPILLWAY_FILE_STORE names"
        )
        return Finding("file store", Verdict.WRONG, found, remedy)
    return Finding("file store", Verdict.WARNING, found, "let this machine reach storage.googleapis.com; jobs wait until it can")


def _version(redis: RedisClient, settings: Settings) -> Finding:
    told = redis.info("server")
    number = str(told.get("redis_version", ""))
    name = f"Valkey {told['valkey_version']}" if "valkey_version" in told else f"Redis {number}"
    found = f"{_address(settings.redis_url)}, {name}"
    if _is_older(number):
        return Finding("Redis", Verdict.WARNING, found, f"take Redis {REDIS} or later, or Valkey: our client supports no older one")
    return Finding("Redis", Verdict.OK, found)


def _is_older(number: str) -> bool:
    try:
        return Version(number) < REDIS
    except InvalidVersion:  # a look-alike that does not tell
        return False


def _configuration(redis: RedisClient) -> dict[str, str] | None:
    """None where a hosted Redis, or an ACL, forbids the question."""
    try:
        return {name: str(redis.config_get(name).get(name, "")) for name in (*DURABLE, *KEEPING)}
    except ResponseError:
        return None


def _held_to(check: str, wanted: dict[str, str], told: dict[str, str] | None, price: str) -> Finding:
    if told is None:
        return Finding(check, Verdict.NOT_CHECKED, "not told: this Redis forbids CONFIG")
    said = ", ".join(f"{name} {told[name]}" for name in wanted)
    wrong = {name: value for name, value in wanted.items() if told[name] != value}
    if not wrong:
        return Finding(check, Verdict.OK, said)
    commands = " and ".join(f"`redis-cli CONFIG SET {name} {value}`" for name, value in wrong.items())
    return Finding(check, Verdict.WARNING, f"{said}: {price}", f"{commands}, and the same in Redis' configuration file")


def _address(url: str) -> str:
    """Without the password, which may stand before the host or among the parameters."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
