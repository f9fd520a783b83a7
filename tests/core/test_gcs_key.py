"""A service account's key as an operator gives it: a wrong one stops the start, and is shown nowhere."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from core.errors import SettingsError
from core.settings import Settings
from tests.conftest import ROOT


@pytest.mark.parametrize("content", ["hush", "[]", "{}", '{"type": "authorized_user"}'])
def test_a_key_file_that_holds_none_stops_the_start_and_is_not_shown(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key.json"
    path.write_text(content)
    with pytest.raises(SettingsError, match="SPILLWAY_GCS_CREDENTIALS is wrong: give a service account's key") as caught:
        Settings.from_environment({"SPILLWAY_GCS_CREDENTIALS_FILE": str(path)})
    assert content not in str(caught.value)


OPEN = serialization.NoEncryption()


def pem(key: Any, encryption: Any = OPEN) -> str:
    return str(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption).decode())


UNABLE: dict[str, Callable[[], object]] = {
    "no PEM": lambda: "hush",
    "nothing": lambda: None,
    "elliptic curve": lambda: pem(generate_ec_key(SECP256R1())),
    "Ed25519": lambda: pem(Ed25519PrivateKey.generate()),
    "a pass phrase": lambda: pem(generate_private_key(65537, 2048), serialization.BestAvailableEncryption(b"x")),
}


@pytest.mark.parametrize("kind", UNABLE)
def test_a_key_that_cannot_sign_stops_the_start(key: str, kind: str) -> None:
    told = json.dumps({**json.loads(key), "private_key": UNABLE[kind]()})
    with pytest.raises(SettingsError, match="SPILLWAY_GCS_CREDENTIALS is wrong: give a service account's key") as caught:
        Settings.from_environment({"SPILLWAY_GCS_CREDENTIALS": told})
    assert "PRIVATE" not in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_process_with_such_a_key_ends_with_one_line_that_names_the_variable(key: str) -> None:
    told = json.dumps({**json.loads(key), "private_key": pem(generate_ec_key(SECP256R1()))})
    environment = {**os.environ, "SPILLWAY_GCS_CREDENTIALS": told}
    done = subprocess.run(
        [sys.executable, "-m", "dispatcher"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("spillway dispatcher: SPILLWAY_GCS_CREDENTIALS is wrong: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_key_comes_from_its_file_and_is_not_shown(key: str, tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text(key)
    settings = Settings.from_environment({"SPILLWAY_GCS_CREDENTIALS_FILE": str(tmp_path / "key.json")})
    assert settings.gcs_credentials == key
    assert "PRIVATE" not in repr(settings)
