"""What is installed is what is locked, and each role gets no more than it may import."""

import subprocess
import sys
import sysconfig
from importlib.metadata import distributions

import pytest

from tools.locks import LOCKS, canonical, read_pins

HASHED = ("dev.txt", "worker.txt", "service.txt", "torch-pypi.txt", "uv.txt", "tools.txt")
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
    return {package: pin.version for name in names for package, pin in read_pins((LOCKS / name).read_text()).items()}


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
    assert [package for package, pin in read_pins((LOCKS / lock).read_text()).items() if not pin.hashes] == []


@pytest.mark.parametrize("lock", HASHED)
def test_every_lock_takes_wheels_alone_save_docopt(lock: str) -> None:
    options = {line for line in (LOCKS / lock).read_text().splitlines() if line.startswith("--")}
    assert "--only-binary :all:" in options
    assert options <= {"--only-binary :all:", "--no-binary docopt"}


def test_what_builds_the_one_source_package_is_locked_too() -> None:
    assert locked("worker.txt").keys() >= {"docopt", "setuptools"}


def test_the_torch_pair_stands_alone_and_exact() -> None:
    assert locked("torch.txt") == {"torch": "2.0.0", "torchaudio": "2.0.0"}
    assert all(locked(lock).keys().isdisjoint(locked("torch.txt")) for lock in HASHED)


@pytest.mark.models
def test_the_whole_stack_lives_in_one_process() -> None:
    done = subprocess.run([sys.executable, "-c", f"import {WHOLE_STACK}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
