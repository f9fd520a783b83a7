"""API keys: who calls. Redis holds a digest of each secret, which is of no use to whoever reads it there."""

import hmac
import re
import secrets
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NoReturn

from pydantic import BaseModel, ConfigDict, Field

from core.crash_points import passed
from core.errors import InvalidRequest, SettingsError, Unauthorized
from core.redis_steps import NAMESPACE, RedisClient, redis_away
from core.settings import FILE_SUFFIX, MOST_PER_KEY, MOST_PER_MINUTE, Settings, variable

TEXT = re.compile(r"spillway_([0-9a-z]{12})_([A-Za-z0-9_-]{43})")
ID_BYTES, SECRET_BYTES = 6, 32  # 12 and 43 characters
NAME_CHARACTERS = 100
NOBODYS_DIGEST = "0" * 64
CREATE = "python -m service.keys create NAME"
ASK_FOR_ONE = f"whoever runs this service makes one with `{CREATE}`"


class Scope(StrEnum):
    SUBMIT = "submit"  # its own jobs
    ADMIN = "admin"  # the jobs of all


ASK_FOR_ADMINS = f"whoever runs this service makes one with `{CREATE} --scope {Scope.ADMIN}`"


@dataclass(frozen=True)
class ApiKey:
    """What its holder keeps secret."""

    id: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        return f"spillway_{self.id}_{self.secret}"


@dataclass(frozen=True)
class KeySecrets:
    hashing: str = field(repr=False)
    first: ApiKey | None  # an admin key that is good without having been created here


class KeyLimits(BaseModel):
    """What a key may do in place of what the settings say; None is what they say, 0 no limit."""

    model_config = ConfigDict(frozen=True)

    requests_per_minute: int | None = Field(None, ge=0, le=MOST_PER_MINUTE)
    max_jobs: int | None = Field(None, ge=0, le=MOST_PER_KEY)
    high_priority: bool | None = None  # None: admin keys may, others may not


THE_SETTINGS = KeyLimits()


class KeyRecord(BaseModel):
    """What is remembered of a key. Times are seconds since the epoch."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    scope: Scope
    created_at: float
    digest: str = Field(repr=False)
    revoked_at: float | None = None
    limits: KeyLimits = THE_SETTINGS

    def requests_per_minute(self, settings: Settings) -> int:
        own = self.limits.requests_per_minute
        return settings.requests_per_minute if own is None else own

    def max_jobs(self, settings: Settings) -> int:
        """An admin's jobs are limited by the queue alone, unless the key says otherwise."""
        if self.limits.max_jobs is not None:
            return self.limits.max_jobs
        return 0 if self.scope == Scope.ADMIN else settings.max_jobs_per_key

    @property
    def goes_first(self) -> bool:
        """Whether its jobs may stand before everybody's: a right, since a key that always took it would keep all others waiting."""
        return self.scope == Scope.ADMIN if self.limits.high_priority is None else self.limits.high_priority


class ApiKeys:
    """Keys by id in one hash. Every method raises `StoreUnavailable` when Redis is away."""

    def __init__(self, redis: RedisClient, key_secrets: KeySecrets, namespace: str = NAMESPACE) -> None:
        self._redis = redis
        self._secrets = key_secrets
        self._hash = f"{namespace}:api_keys"

    def verify(self, text: str) -> KeyRecord:
        """Whose key it is. Raises `Unauthorized`; what cannot be a key is refused without asking Redis."""
        key = parsed(text)
        if key is None:
            raise Unauthorized(f"this is no API key: one begins with `spillway_` and has 65 characters; {ASK_FOR_ONE}")
        record = self._record(key.id)
        digest = record.digest if record else NOBODYS_DIGEST  # the same work for an id that nobody has
        is_right = hmac.compare_digest(self._digest(key), digest)
        if record is None or not is_right:
            raise Unauthorized(f"this API key is not known here; {ASK_FOR_ONE}")
        if record.revoked_at is not None:
            raise Unauthorized(f"this API key was revoked; {ASK_FOR_ONE}")
        return record

    def is_revoked(self, key_id: str) -> bool:
        record = self._record(key_id)
        return record is None or record.revoked_at is not None

    def create(self, name: str, scope: Scope, limits: KeyLimits = THE_SETTINGS) -> ApiKey:
        """Known from now on; its secret is not kept. Raises `InvalidRequest` for a name that cannot be shown."""
        if not name.strip() or not name.isprintable() or len(name) > NAME_CHARACTERS:
            raise InvalidRequest(f"a key's name has 1 to {NAME_CHARACTERS} printable characters: choose another", field="name")
        key = new_key()
        self._remember(self._new_record(key, name, scope, limits))
        return key

    def records(self) -> list[KeyRecord]:
        """Revoked ones as well, oldest first."""
        self._remember_first()
        with redis_away():
            found = self._redis.hvals(self._hash)
        return sorted(map(KeyRecord.model_validate_json, found), key=lambda record: record.created_at)

    def revoke(self, key_id: str) -> KeyRecord:
        """Refused from now on; revoking again changes nothing. Raises `InvalidRequest` for an id that no key has."""
        record = self._record(key_id)
        if record is None:
            raise InvalidRequest(f"there is no API key {key_id!r}: `python -m service.keys list` shows the ids", field="id")
        if record.revoked_at is not None:
            return record
        revoked = record.model_copy(update={"revoked_at": time.time()})
        with redis_away():
            self._redis.hset(self._hash, key_id, revoked.model_dump_json())
        passed("redis", "api_keys")
        return revoked

    def _record(self, key_id: str) -> KeyRecord | None:
        with redis_away():
            found = self._redis.hget(self._hash, key_id)
            if found is None and self._secrets.first and self._secrets.first.id == key_id:
                self._remember_first()
                found = self._redis.hget(self._hash, key_id)
        return None if found is None else KeyRecord.model_validate_json(found)

    def _remember_first(self) -> None:
        if self._secrets.first:
            self._remember(self._new_record(self._secrets.first, "first", Scope.ADMIN, THE_SETTINGS))

    def _remember(self, record: KeyRecord) -> None:
        """Once for each id, so that the first key stays revoked when the service starts again."""
        with redis_away():
            self._redis.hsetnx(self._hash, record.id, record.model_dump_json())
        passed("redis", "api_keys")

    def _new_record(self, key: ApiKey, name: str, scope: Scope, limits: KeyLimits) -> KeyRecord:
        return KeyRecord(id=key.id, name=name, scope=scope, created_at=time.time(), digest=self._digest(key), limits=limits)

    def _digest(self, key: ApiKey) -> str:
        return hmac.digest(self._secrets.hashing.encode(), key.secret.encode(), "sha256").hex()


def new_key() -> ApiKey:
    return ApiKey(secrets.token_hex(ID_BYTES), secrets.token_urlsafe(SECRET_BYTES))


def parsed(text: str) -> ApiKey | None:
    found = TEXT.fullmatch(text)
    return ApiKey(found[1], found[2]) if found else None


def key_secrets(settings: Settings) -> KeySecrets:
    """Raises `SettingsError` when there is nothing to hash keys with, or the first key is none."""
    if settings.api_key_secret is None:
        _refuse("api_key_secret", "is not set")
    first = parsed(settings.first_api_key) if settings.first_api_key else None
    if settings.first_api_key and not first:
        _refuse("first_api_key", "is no API key")
    return KeySecrets(settings.api_key_secret, first)


FILE_NAMES = {"api_key_secret": "api_key_secret", "first_api_key": "api_key"}  # what `service.init` writes


def _refuse(setting: str, fault: str) -> NoReturn:
    name = variable(setting)
    raise SettingsError(
        f"{name} {fault}: run `python -m service.init DIR` once, then set {name}{FILE_SUFFIX}=DIR/{FILE_NAMES[setting]};"
        f" or {variable('access')}=open, which listens on loopback only"
    )
