"""The real `modal deploy modal_deploy.py`, and what Modal would have built of it."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from grpclib import Status

from tests.conftest import ROOT
from tests.modal_deployment import DeployableServer, Deployment, checkout_of, deploy, deployed
from tests.modal_wire import Fault

CONTENTS = ("core", "worker")
DIGEST = f"registry.example/worker@sha256:{'0' * 64}"


SETTINGS = {"SPILLWAY_MODAL_TIMEOUT_S": "1800", "SPILLWAY_ASR_MODEL": "large-v3", "SPILLWAY_ALIGN_LANGUAGES": "en,de"}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With what must not travel beside what must."""
    folder = checkout_of(tmp_path_factory.mktemp("modal") / "app")
    for secret in (".env", "requirements/.netrc", ".venv/lib/thing.py", "worker/__pycache__/key.pyc"):
        (folder / secret).parent.mkdir(parents=True, exist_ok=True)
        (folder / secret).write_text("SPILLWAY_MODAL_TOKEN_SECRET=as-secret")
    return folder


@pytest.fixture(scope="module")
def deployment(checkout: Path) -> Deployment:
    with DeployableServer() as server:
        return deployed(server, checkout, **SETTINGS)


@pytest.fixture
def server() -> Iterator[DeployableServer]:
    with DeployableServer() as running:
        yield running


def test_a_deployment_is_what_the_settings_say(deployment: Deployment) -> None:
    shared, candidates = deployment.options("Transcriber.*"), deployment.candidates("Transcriber.*")
    assert [one.resources.gpu_config.gpu_type for one in candidates] == ["A10", "L4", "L40S"]
    assert (shared.timeout_secs, shared.startup_timeout_secs) == (1800, 600)
    assert (shared.autoscaler_settings.max_containers, shared.autoscaler_settings.min_containers) == (2, 0)
    assert shared.autoscaler_settings.scaledown_window == 30
    assert {one.retry_policy.retries for one in candidates} == {0}
    assert deployment.options("fill").resources.gpu_config.count == 0
    assert (deployment.app_name, set(deployment.volumes)) == ("spillway", {"spillway-models"})
    assert {mount.mount_path for one in candidates for mount in one.volume_mounts} == {"/var/lib/spillway/models"}


def test_the_container_is_told_the_settings_and_no_secret(deployment: Deployment) -> None:
    (variables,) = {frozenset(sent.items()) for sent in deployment.secrets.values()}
    assert SETTINGS.items() <= dict(variables).items()
    assert {dict(variables)[name] for name in ("SPILLWAY_PULL_AT_START", "SPILLWAY_PULL_ON_FIRST_USE")} == {"false"}
    assert Path(dict(variables)["CUDA_CACHE_PATH"]).parent == Path("/var/lib/spillway/models"), (
        "compiled kernels are not kept on the Volume"
    )
    assert [name for name in dict(variables) if "TOKEN" in name or "CREDENTIALS" in name or "REDIS" in name] == []


def test_the_image_is_the_dockerfiles_stack_without_a_line_of_code(deployment: Deployment) -> None:
    image = deployment.images[0]
    assert [line for line in image.dockerfile_commands if line.startswith("FROM ")] == [
        "FROM ${SERVICE_IMAGE} AS installer",
        "FROM ${BASE_IMAGE} AS stack",
    ]
    ours = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    assert set(image.dockerfile_commands) - {""} <= set(ours)
    assert dict(image.build_args) == {"GPU_STACK": "cu118"}
    copied = {word for line in image.dockerfile_commands if re.match(r"COPY (?!--)", line) for word in line.split()[1:-1]}
    assert set(deployment.mounts[image.context_mount_id]) == {f"/{name}" for name in copied}


def test_the_code_travels_whole_and_nothing_else_does(deployment: Deployment) -> None:
    sent = {name: content for files in deployment.mounts.values() for name, content in files.items()}
    code = {f"/app/{path.relative_to(ROOT)}": path for name in CONTENTS for path in (ROOT / name).rglob("*") if path.is_file()}
    ours = {name: path.read_bytes() for name, path in code.items() if "__pycache__" not in name}
    assert {name: content for name, content in sent.items() if name.startswith("/app/")} == ours
    assert {name for name in sent if not name.startswith("/app/")} == {
        "/root/modal_deploy.py", "/requirements/uv.txt", "/requirements/torch-pypi.txt", "/requirements/worker.txt",
    }  # fmt: skip
    assert [name for name, content in sent.items() if b"as-secret" in content] == []


def test_an_edit_of_the_code_builds_no_image(deployment: Deployment, server: DeployableServer, tmp_path: Path) -> None:
    edited = checkout_of(tmp_path / "app")
    shutil.copy(ROOT / ".dockerignore", edited)  # there in a checkout, not in the service's image
    (edited / "worker" / "work.py").write_text("# another\n")
    (edited / "Dockerfile").write_text("# another comment\n" + (edited / "Dockerfile").read_text())
    after = deployed(server, edited, **SETTINGS)
    assert _built(after) == _built(deployment)


def test_the_secrets_are_the_accounts_own_by_name(server: DeployableServer, checkout: Path) -> None:
    server.named_secrets = {"gcs": {"SPILLWAY_GCS_CREDENTIALS"}, "hub": {"SPILLWAY_HF_TOKEN"}}
    bucket = {"SPILLWAY_FILE_STORE": "gs://bucket/spillway", "SPILLWAY_MODAL_GCS_SECRET": "gcs", "SPILLWAY_MODAL_HF_SECRET": "hub"}
    found = deployed(server, checkout, **bucket)
    named = {
        function: {name for one in found.candidates(function) for name in one.secret_ids} & {"st-gcs", "st-hub"}
        for function in ("Transcriber.*", "fill")
    }
    assert named == {"Transcriber.*": {"st-gcs"}, "fill": {"st-hub"}}


@pytest.mark.parametrize(
    ("settings", "missing", "keys"),
    [
        ({"SPILLWAY_MODAL_HF_SECRET": "hub"}, "hub with SPILLWAY_HF_TOKEN", "SPILLWAY_HF_TOKEN=…"),
        (
            {"SPILLWAY_MODAL_IMAGE": DIGEST, "SPILLWAY_MODAL_REGISTRY_SECRET": "hub"},
            "hub (Secret 'hub' not found",
            "REGISTRY_USERNAME=… REGISTRY_PASSWORD=…",
        ),
    ],
)
def test_a_missing_secret_is_named_with_the_command_that_makes_it(
    server: DeployableServer, checkout: Path, settings: dict[str, str], missing: str, keys: str
) -> None:
    done = deploy(server, checkout, **settings)
    assert done.returncode != 0
    assert f"Modal gives no Secret {missing}" in done.stderr
    assert f"modal secret create hub {keys}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not server.deployment.is_published


def test_a_secret_that_the_token_may_not_read_is_named(server: DeployableServer, checkout: Path) -> None:
    server.faults = [Fault("SecretGetOrCreate", Status.PERMISSION_DENIED, "not for this token", times=100)]
    done = deploy(server, checkout, SPILLWAY_MODAL_HF_SECRET="hub")
    assert done.returncode != 0
    assert "Modal gives no Secret hub with SPILLWAY_HF_TOKEN (not for this token): if it is missing, make it" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("token", "said"),
    [({"MODAL_TOKEN_SECRET": "as-other"}, "Token ID not found"), ({"MODAL_TOKEN_ID": "", "MODAL_TOKEN_SECRET": ""}, "Token missing")],
)
def test_a_wrong_token_is_said_in_a_line(server: DeployableServer, checkout: Path, token: dict[str, str], said: str) -> None:
    done = deploy(server, checkout, **token)
    assert done.returncode != 0
    assert said in done.stderr
    assert "see the token, SPILLWAY_MODAL_TOKEN_ID and SPILLWAY_MODAL_TOKEN_SECRET in .env" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"SPILLWAY_FILE_STORE": "gs://bucket/spillway"}, "set SPILLWAY_MODAL_GCS_SECRET=spillway-gcs"),
        ({"SPILLWAY_ASR_MODEL": "/srv/own"}, "which is not on Modal: burst with a model that has a name"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_sent(
    server: DeployableServer, checkout: Path, settings: dict[str, str], said: str
) -> None:
    done = deploy(server, checkout, **settings)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert server.heard == []


def test_a_pushed_image_is_taken_by_its_digest_as_it_is(server: DeployableServer, checkout: Path) -> None:
    server.named_secrets = {"registry": {"REGISTRY_USERNAME", "REGISTRY_PASSWORD"}}
    found = deployed(server, checkout, SPILLWAY_MODAL_IMAGE=DIGEST, SPILLWAY_MODAL_REGISTRY_SECRET="registry")
    assert f"FROM {DIGEST}" in {line for image in found.images for line in image.dockerfile_commands}
    assert {name for files in found.mounts.values() for name in files} == {"/root/modal_deploy.py"}


def _built(found: Deployment) -> list[tuple[list[str], dict[str, bytes]]]:
    """Of each image what its layers depend on."""
    return [(list(image.dockerfile_commands), found.mounts.get(image.context_mount_id, {})) for image in found.images]
