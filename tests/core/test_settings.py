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
        ("SPILLWAY_MODAL_GPUS", "L4, B200"),
        ("SPILLWAY_MODAL_GPUS", "any"),
        ("SPILLWAY_MODAL_IMAGE", "registry.example/worker:latest"),
        ("SPILLWAY_MODAL_APP", "two words"),
        ("SPILLWAY_MODAL_TOKEN_ID", "ak-test\r"),
        ("SPILLWAY_MODAL_TOKEN_SECRET", "as-té"),
        ("SPILLWAY_WEBHOOK_SECRET", "secret"),
        ("SPILLWAY_WEBHOOK_SECRET", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        ("SPILLWAY_WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS!"),
        ("SPILLWAY_WEBHOOK_SECRET", "whsec_c2hvcnQ="),
        ("SPILLWAY_WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw,secret"),
    ],
)
def test_a_wrong_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        Settings.from_environment({name: value})


@pytest.mark.parametrize("wrong", ["10.1.2.3/16", "nas.local:9000", "*.internal", "nas.local."])
def test_a_wrong_host_to_allow_says_what_to_write(wrong: str) -> None:
    with pytest.raises(SettingsError, match=r"write host names, as nas\.example\.com, and networks"):
        Settings.from_environment({"SPILLWAY_CALLBACK_ALLOW": wrong})


def test_a_wrong_secret_is_not_shown_either() -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment({"SPILLWAY_WEBHOOK_SECRET": "whsec_secret"})
    assert "whsec_secret" not in str(refused.value)


def test_two_secrets_may_sign_while_receivers_change_over(tmp_path: Path) -> None:
    new, old = "whsec_dGhlIG5leHQgc2VjcmV0IG9mIHRoZSBib3g=", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    (tmp_path / "secret").write_text(f"{new},\n{old}\n")
    settings = Settings.from_environment({"SPILLWAY_WEBHOOK_SECRET_FILE": str(tmp_path / "secret")})
    assert settings.webhook_secret == (new, old)
    assert "whsec" not in repr(settings)


def test_every_setting_has_a_line_of_help() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_no_secret_shows_when_settings_are_printed() -> None:
    secret = ("SPILLWAY_HF_TOKEN", "SPILLWAY_MODAL_TOKEN_SECRET", "SPILLWAY_FIRST_API_KEY", "SPILLWAY_API_KEY_SECRET")
    given = dict.fromkeys(secret, "hunter2" * 5) | {"SPILLWAY_REDIS_URL": "redis://:hunter2@redis:6379/0"}
    assert "hunter2" not in repr(Settings.from_environment(given))


def test_a_variable_may_name_a_file_that_holds_the_value(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://:pass word@redis:6379/0\n")
    (tmp_path / "port").write_text("9000")
    settings = Settings.from_environment({"SPILLWAY_REDIS_URL_FILE": str(tmp_path / "url"), "SPILLWAY_PORT_FILE": str(tmp_path / "port")})
    assert (settings.redis_url, settings.port) == ("redis://:pass word@redis:6379/0", 9000)


def test_only_the_final_newline_of_a_file_is_no_part_of_the_value(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(" hf\n\n")
    assert Settings.from_environment({"SPILLWAY_HF_TOKEN_FILE": str(tmp_path / "token")}).hf_token == " hf\n"


def test_a_variable_and_its_file_are_not_both_given(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://redis:6379/0")
    with pytest.raises(SettingsError, match="SPILLWAY_REDIS_URL and SPILLWAY_REDIS_URL_FILE are both set"):
        Settings.from_environment({"SPILLWAY_REDIS_URL": "redis://a", "SPILLWAY_REDIS_URL_FILE": str(tmp_path / "url")})
    given = {"SPILLWAY_REDIS_URL": "", "SPILLWAY_REDIS_URL_FILE": str(tmp_path / "url")}
    assert Settings.from_environment(given).redis_url == "redis://redis:6379/0"


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), (b"", "is empty"), (b"\n", "is empty"), (b"\xff", "UTF-8")])
def test_a_file_that_gives_no_value_is_named_with_its_variable(tmp_path: Path, content: bytes | None, why: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=f"SPILLWAY_HF_TOKEN_FILE is {path}.*{why}"):
        Settings.from_environment({"SPILLWAY_HF_TOKEN_FILE": str(path)})


@pytest.mark.parametrize("name", ["SPILLWAY_PROT_FILE", "SPILLWAY_FILE", "SPILLWAY_PORT_FILE_FILE"])
def test_a_file_for_no_setting_is_unknown_by_the_name_that_was_given(name: str) -> None:
    with pytest.raises(SettingsError, match=f"unknown setting {name}:"):
        Settings.from_environment({name: "/nowhere"})


def test_what_a_secret_file_holds_is_not_shown_when_it_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2")
    with pytest.raises(SettingsError, match="SPILLWAY_API_KEY_SECRET is wrong") as refused:
        Settings.from_environment({"SPILLWAY_API_KEY_SECRET_FILE": str(tmp_path / "secret")})
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(("lease_s", "is_good"), [("7.9", False), ("8", True)])
def test_a_lease_is_long_beside_the_pauses_of_who_takes_it_back(lease_s: str, is_good: bool) -> None:
    given = {"SPILLWAY_LEASE_S": lease_s, "SPILLWAY_HEARTBEAT_S": "2", "SPILLWAY_SWEEP_PERIOD_S": "1"}
    if is_good:
        assert Settings.from_environment(given).lease_s == 8
    else:
        with pytest.raises(SettingsError, match="SPILLWAY_SWEEP_PERIOD_S is more than an eighth of SPILLWAY_LEASE_S"):
            Settings.from_environment(given)


def test_the_clients_variables_are_none_of_ours() -> None:
    assert Settings.from_environment({"SPILLWAY_URL": "http://x", "SPILLWAY_API_KEY": "k"}) == Settings.from_environment({})


def test_hosts_and_networks_may_be_allowed() -> None:
    given = {"SPILLWAY_FETCH_ALLOW": "10.1.0.0/16, fd00::/8,NAS, files.example.internal,127.0.0.1"}
    assert Settings.from_environment(given).fetch_allow == ("10.1.0.0/16", "fd00::/8", "nas", "files.example.internal", "127.0.0.1")


def test_settings_come_out_elsewhere_as_they_are_here() -> None:
    given = {"SPILLWAY_MODAL_GPUS": "L4,A10", "SPILLWAY_PULL_AT_START": "false", "SPILLWAY_VAD_ONSET": "0.6", "SPILLWAY_MODEL_DIR": "/m"}
    here = Settings.from_environment(given)
    assert Settings.from_environment(here.as_environment(Settings.model_fields)) == here


@pytest.mark.parametrize(("text", "seconds"), [("0", 0.0), ("3600", 3600.0), ("1e7", 1e7), ("forever", None)])
def test_a_lifetime_is_so_many_seconds_or_for_ever(text: str, seconds: float | None) -> None:
    assert Settings.from_environment({"SPILLWAY_KEEP_RESULTS_S": text}).keep_results_s == seconds


@pytest.mark.parametrize("text", ["-1", "for ever", "inf", "30 days"])
def test_another_lifetime_is_a_wrong_setting(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^SPILLWAY_KEEP_INPUTS_S is wrong: [^;]*$"):
        Settings.from_environment({"SPILLWAY_KEEP_INPUTS_S": text})
