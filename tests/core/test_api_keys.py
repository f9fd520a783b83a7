"""API keys: made, checked, revoked, on a real Redis."""

import pytest

from core.api_keys import ApiKey, ApiKeys, KeySecrets, Scope, key_secrets, new_key, parsed
from core.errors import InvalidRequest, SettingsError, StoreUnavailable, Unauthorized
from core.redis_steps import RedisClient, connect
from core.settings import Settings
from tests.conftest import free_port

HASHING = "h" * 64
FIRST = new_key()


@pytest.fixture
def keys(redis: RedisClient) -> ApiKeys:
    return ApiKeys(redis, KeySecrets(HASHING, first=None))


def with_first(redis: RedisClient) -> ApiKeys:
    return ApiKeys(redis, KeySecrets(HASHING, first=FIRST))


def test_a_key_is_what_it_was_made_as(keys: ApiKeys) -> None:
    key = keys.create("alice", Scope.SUBMIT)
    record = keys.verify(key.text)
    assert (record.id, record.name, record.scope, record.revoked_at) == (key.id, "alice", Scope.SUBMIT, None)
    assert parsed(key.text) == key
    assert len(key.text) == len("spillway_") + 12 + 1 + 43


def test_two_keys_of_one_name_are_two(keys: ApiKeys) -> None:
    first, second = keys.create("alice", Scope.SUBMIT), keys.create("alice", Scope.SUBMIT)
    keys.revoke(first.id)
    assert keys.verify(second.text).name == "alice"


def test_redis_holds_nothing_that_a_client_could_send(keys: ApiKeys, redis: RedisClient) -> None:
    key = keys.create("alice", Scope.ADMIN)
    kept = str(redis.hgetall("spillway:api_keys"))
    assert key.id in kept
    assert key.secret not in kept
    assert key.secret not in repr(key)


def test_a_digest_is_of_no_use_under_another_hashing_secret(keys: ApiKeys, redis: RedisClient) -> None:
    key = keys.create("alice", Scope.SUBMIT)
    with pytest.raises(Unauthorized, match="not known here"):
        ApiKeys(redis, KeySecrets("x" * 64, first=None)).verify(key.text)


def test_another_secret_or_an_unknown_id_are_refused_alike(keys: ApiKeys) -> None:
    key, other = keys.create("alice", Scope.SUBMIT), new_key()
    refusals = []
    for wrong in (ApiKey(key.id, other.secret), ApiKey(other.id, key.secret), other):
        with pytest.raises(Unauthorized) as refused:
            keys.verify(wrong.text)
        refusals.append(str(refused.value))
    assert len(set(refusals)) == 1


MALFORMED = {
    "nothing": "",
    "a word": "hunter2",
    "no secret": "spillway_0123456789ab_",
    "a short id": f"spillway_0123_{'a' * 43}",
    "a capital in the id": f"spillway_0123456789aB_{'a' * 43}",
    "a short secret": f"spillway_0123456789ab_{'a' * 42}",
    "a long secret": f"spillway_0123456789ab_{'a' * 44}",
    "a line behind it": f"spillway_0123456789ab_{'a' * 43}\n",
    "foreign digits": f"spillway_٠١٢٣٤٥٦٧٨٩ab_{'a' * 43}",
    "foreign letters": f"spillway_0123456789ab_{'é' * 43}",
    "a megabyte": "spillway_" + "a" * 1024**2,
}


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_cannot_be_a_key_is_refused_without_asking_redis(text: str) -> None:
    nowhere = connect(f"redis://127.0.0.1:{free_port()}/0", timeout_s=0.1, retries=0)
    keys = ApiKeys(nowhere, KeySecrets(HASHING, first=None))
    with pytest.raises(Unauthorized, match="no API key"):
        keys.verify(text)
    with pytest.raises(StoreUnavailable):
        keys.verify(new_key().text)


def test_a_revoked_key_is_refused_at_once_and_stays_listed(keys: ApiKeys) -> None:
    key = keys.create("alice", Scope.SUBMIT)
    revoked_at = keys.revoke(key.id).revoked_at
    with pytest.raises(Unauthorized, match="was revoked"):
        keys.verify(key.text)
    assert keys.is_revoked(key.id)
    assert keys.revoke(key.id).revoked_at == revoked_at
    assert [(record.id, record.revoked_at) for record in keys.records()] == [(key.id, revoked_at)]


def test_only_its_holder_hears_that_a_key_was_revoked(keys: ApiKeys) -> None:
    key = keys.create("alice", Scope.SUBMIT)
    keys.revoke(key.id)
    with pytest.raises(Unauthorized, match="not known here"):
        keys.verify(ApiKey(key.id, new_key().secret).text)


def test_an_id_that_no_key_has_cannot_be_revoked(keys: ApiKeys) -> None:
    with pytest.raises(InvalidRequest, match=r"no API key 'nobody'.* list"):
        keys.revoke("nobody")


@pytest.mark.parametrize("name", ["", " ", "a\nb", "\x1b[31m", "x" * 101])
def test_a_name_that_cannot_be_shown_is_refused(keys: ApiKeys, name: str) -> None:
    with pytest.raises(InvalidRequest):
        keys.create(name, Scope.SUBMIT)


def test_keys_are_listed_oldest_first(keys: ApiKeys) -> None:
    made = [keys.create(name, Scope.SUBMIT).id for name in "abc"]
    assert [record.id for record in keys.records()] == made


def test_the_first_key_is_an_admins_from_its_first_use(redis: RedisClient) -> None:
    record = with_first(redis).verify(FIRST.text)
    assert (record.id, record.name, record.scope) == (FIRST.id, "first", Scope.ADMIN)
    assert [record.name for record in with_first(redis).records()] == ["first"]


def test_a_wrong_secret_with_the_first_keys_id_opens_nothing(redis: RedisClient) -> None:
    keys = with_first(redis)
    with pytest.raises(Unauthorized):
        keys.verify(ApiKey(FIRST.id, new_key().secret).text)
    assert keys.verify(FIRST.text).name == "first"


@pytest.mark.parametrize("was_used", [True, False])
def test_a_revoked_first_key_stays_revoked_when_the_service_starts_again(redis: RedisClient, was_used: bool) -> None:
    keys = with_first(redis)
    if was_used:
        keys.verify(FIRST.text)
    revoked_at = keys.revoke(FIRST.id).revoked_at
    assert [record.revoked_at for record in with_first(redis).records()] == [revoked_at]
    with pytest.raises(Unauthorized, match="was revoked"):
        with_first(redis).verify(FIRST.text)


def test_a_redis_that_is_away_is_said_so() -> None:
    keys = ApiKeys(connect(f"redis://127.0.0.1:{free_port()}/0", timeout_s=0.1, retries=0), KeySecrets(HASHING, first=FIRST))
    for ask in (keys.records, lambda: keys.verify(FIRST.text), lambda: keys.create("a", Scope.SUBMIT), lambda: keys.revoke("a")):
        with pytest.raises(StoreUnavailable):
            ask()


def test_the_settings_give_the_secrets() -> None:
    settings = Settings(api_key_secret=HASHING, first_api_key=FIRST.text)
    assert key_secrets(settings) == KeySecrets(HASHING, FIRST)
    assert key_secrets(Settings(api_key_secret=HASHING)).first is None
    assert FIRST.secret not in repr(key_secrets(settings))
    assert HASHING not in repr(key_secrets(settings))


@pytest.mark.parametrize("settings", [Settings(), Settings(api_key_secret=HASHING, first_api_key="hunter2")])
def test_settings_that_give_none_say_how_to_make_them(settings: Settings) -> None:
    with pytest.raises(SettingsError, match=r"run `python -m service\.init DIR` once, then set SPILLWAY_\w+_FILE=DIR/\w+"):
        key_secrets(settings)
