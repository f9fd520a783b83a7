"""What is installed is what is locked, and each role gets no more than it may import."""

import re
import subprocess
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

import pytest

LOCKS = Path(__file__).parent.parent / "requirements"
HASHED = ("dev.txt", "worker.txt", "service.txt", "torch-pypi.txt")
CHECKOUT = ("dev.txt", "torch-pypi.txt", "torch.txt")
ML_STACK = {
    "torch", "torchaudio", "triton", "numpy", "scipy", "pandas", "ctranslate2", "faster-whisper", "whisperx", "pyannote-audio",
    "pyannote-core", "transformers", "tokenizers", "huggingface-hub", "lightning", "pytorch-lightning", "speakerlab-slim", "onnxruntime",
}  # fmt: skip
WHOLE_STACK = (
    "torch, torchaudio, numpy, ctranslate2, faster_whisper, whisperx, transformers, pyannote.audio, speakerlab, celery, kombu, redis, "
    "flask, flask_openapi3, gunicorn, pydantic, structlog, prometheus_client, google.cloud.storage, httpx, rich, modal"
)


def locked(*names: str) -> dict[str, str]:
    """Version by distribution."""
    pins = (re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", (LOCKS / name).read_text(), re.MULTILINE) for name in names)
    return {canonical(distribution): version for found in pins for distribution, version in found}


def canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_what_is_installed_is_what_is_locked_and_nothing_else() -> None:
    installed = {canonical(distribution.name): distribution.version for distribution in distributions(path=[sysconfig.get_path("purelib")])}
    assert installed == locked(*CHECKOUT)


def test_no_distribution_is_locked_twice_with_two_versions() -> None:
    for role in ("service.txt", "worker.txt", "torch-pypi.txt"):
        everything = locked("dev.txt", role)
        assert everything == {**everything, **locked("dev.txt")}


@pytest.mark.parametrize("role", ["service.txt", "worker.txt"])
def test_a_roles_lock_is_cut_from_the_checkouts(role: str) -> None:
    assert locked(role).items() <= locked("dev.txt").items()


def test_the_services_lock_holds_no_part_of_the_ml_stack() -> None:
    assert locked("service.txt").keys() & ML_STACK == set()


def test_the_workers_lock_serves_no_http_and_knows_nothing_of_modal() -> None:
    assert locked("worker.txt").keys() & {"flask", "flask-openapi3", "gunicorn", "modal"} == set()


@pytest.mark.parametrize("lock", HASHED)
def test_every_locked_line_has_a_hash(lock: str) -> None:
    requirements = re.split(r"\n(?=\S)", (LOCKS / lock).read_text())
    without = [requirement for requirement in requirements if not requirement.startswith("#") and "--hash=sha256:" not in requirement]
    assert without == []


def test_the_torch_pair_stands_alone_and_exact() -> None:
    assert locked("torch.txt") == {"torch": "2.0.0", "torchaudio": "2.0.0"}
    assert all(locked(lock).keys().isdisjoint(locked("torch.txt")) for lock in HASHED)


@pytest.mark.models
def test_the_whole_stack_lives_in_one_process() -> None:
    done = subprocess.run([sys.executable, "-c", f"import {WHOLE_STACK}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
