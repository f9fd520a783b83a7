from pathlib import Path

import pytest

from core.errors import SettingsError
from core.settings import Settings


def test_nothing_set_gives_the_defaults() -> None:
    assert Settings.from_environment({"PATH": "/bin"}) == Settings.from_environment({})
    assert Settings.from_environment({}).port == 8000


def test_variables_are_read_with_their_types() -> None:
    settings = Settings.from_environment(
        {"SPILLWAY_PORT": "9000", "SPILLWAY_MODEL_DIR": "/m", "SPILLWAY_ALIGN_LANGUAGES": "en, de", "SPILLWAY_LEASE_S": "30.5"}
    )
    assert (settings.port, settings.model_dir, settings.align_languages, settings.lease_s) == (9000, Path("/m"), ("en", "de"), 30.5)


def test_an_empty_variable_counts_as_unset() -> None:
    assert Settings.from_environment({"SPILLWAY_PORT": ""}).port == 8000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SPILLWAY_PORT", "eighty"),
        ("SPILLWAY_PORT", "70000"),
        ("SPILLWAY_DEVICE", "tpu"),
        ("SPILLWAY_LEASE_S", "0"),
        ("SPILLWAY_PROT", "8000"),
        ("SPILLWAY_LEASE_S", "10"),
        ("SPILLWAY_LEASE_S", "inf"),
        ("SPILLWAY_VAD_OFFSET", "0.9"),
        ("SPILLWAY_FETCH_ALLOW", "10.0.0.1/8"),
        ("SPILLWAY_FETCH_ALLOW", "nas, http://nas"),
        ("SPILLWAY_FETCH_ALLOW", "*.internal"),
        ("SPILLWAY_CALLBACK_ALLOW", "http://hooks"),
        ("SPILLWAY_WEBHOOK_SECRET", "secret"),
        ("SPILLWAY_WEBHOOK_SECRET", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ("SPILLWAY_WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS!"),
        ("SPILLWAY_WEBHOOK_SECRET", "whsec_c2hvcnQ="),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_environment({name: value})


SECRETS = [("SPILLWAY_HF_TOKEN", "hf_abc"), ("SPILLWAY_WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]


@pytest.mark.parametrize(("name", "secret"), SECRETS)
def test_a_secret_is_not_shown(name: str, secret: str) -> None:
    assert secret not in repr(Settings.from_environment({name: secret}))


def test_a_wrong_secret_is_not_shown_either() -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment({"SPILLWAY_WEBHOOK_SECRET": "whsec_secret"})
    assert "whsec_secret" not in str(refused.value)


def test_every_setting_has_a_line_of_help() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_hosts_and_networks_may_be_allowed() -> None:
    given = {"SPILLWAY_FETCH_ALLOW": "10.1.0.0/16, fd00::/8,NAS, files.example.internal,127.0.0.1"}
    assert Settings.from_environment(given).fetch_allow == ("10.1.0.0/16", "fd00::/8", "nas", "files.example.internal", "127.0.0.1")
