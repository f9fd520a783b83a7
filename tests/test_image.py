"""The image and the compose files, read: what Modal's builder and a cautious administrator expect of them. `make image-smoke` runs them."""

import re
from typing import Any

import pytest
import yaml
from modal._utils.docker_utils import extract_copy_command_patterns

from core.settings import Settings, variable
from tests.conftest import ROOT
from tests.modal_deployment import SERVICE_FILES
from tools.image_smoke import BASE_IMAGE, CONTEXT
from tools.settings_table import COMPOSE_DECIDES
from tools.stack_smoke import REDIS_IMAGE

DOCKERFILE = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
INSTRUCTIONS = re.findall(r"^([A-Z]+) ", re.sub(r"\\\n", " ", DOCKERFILE), re.MULTILINE)
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
MIRRORS = {"HF_ENDPOINT", "PIP_INDEX_URL", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"}  # others' variables, which the worker's downloads heed
MODALS = {"MODAL_ENVIRONMENT", "MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"}  # what `modal deploy` in the dispatcher's container reads


def test_modals_builder_takes_the_dockerfile() -> None:
    """Modal implements neither of these, and reads COPY by itself."""
    unknown_there = {"EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD", "STOPSIGNAL", "USER", "VOLUME", "SHELL", "ADD"}
    assert unknown_there & set(INSTRUCTIONS) == set()
    assert "--mount" not in DOCKERFILE
    assert "<<" not in DOCKERFILE
    assert extract_copy_command_patterns(DOCKERFILE.splitlines())


def test_the_worker_is_the_last_stage() -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)", DOCKERFILE, re.MULTILINE)
    assert stages[-1] == "worker"
    assert "service" in stages


def test_the_code_comes_after_the_stack() -> None:
    """What Modal builds has no line of it, and a changed line installs nothing on the box either."""
    stages = dict(re.findall(r"^FROM \S+ AS (\w+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL))
    copied = {name: set(extract_copy_command_patterns(text.splitlines())) for name, text in stages.items()}
    assert copied["stack"] | copied["installer"] == {f"requirements/{name}.txt" for name in ("torch-pypi", "uv", "worker")}
    assert copied["worker"] == {"samples", "core", "worker"}


def test_the_services_image_holds_what_a_deployment_to_modal_sends() -> None:
    service = DOCKERFILE[DOCKERFILE.index("AS service\n") : DOCKERFILE.index("AS stack\n")]
    held = {source.partition("/")[0] for source in extract_copy_command_patterns(service.splitlines())}
    assert set(SERVICE_FILES) <= held
    for name in ("torch-pypi.txt", "uv.txt", "worker.txt", "torch.txt"):
        assert f"requirements/{name}" in service


def test_modals_command_in_the_dispatchers_container_has_the_boxs_token() -> None:
    given = SERVICES["dispatcher"]["environment"]
    assert {name: given[name] for name in MODALS} == {name: f"${{SPILLWAY_{name}:-}}" for name in MODALS}
    assert [name for name, service in SERVICES.items() if MODALS & set(service.get("environment", ()))] == ["dispatcher"]


def test_the_context_lets_through_what_the_dockerfile_copies_and_no_more() -> None:
    let_through = re.findall(r"^!([^/\n]+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    copied = {source.partition("/")[0] for source in extract_copy_command_patterns(DOCKERFILE.splitlines())}
    assert set(let_through) == copied == set(CONTEXT)


def test_the_arguments_of_compose_are_the_dockerfiles() -> None:
    defaults = dict(re.findall(r"^ARG (\w+)=(\S+)", DOCKERFILE, re.MULTILINE))
    given = {name: _default(value) for name, value in SERVICES["worker"]["build"]["args"].items()}
    assert given == defaults
    assert given["BASE_IMAGE"] == BASE_IMAGE
    assert _default(SERVICES["redis"]["image"]) == REDIS_IMAGE


def test_the_torch_pair_of_the_image_is_the_locks() -> None:
    pinned = dict(re.findall(r"^(torch\w*)==(\S+)", (ROOT / "requirements" / "torch.txt").read_text(), re.MULTILINE))
    defaults = dict(re.findall(r"^ARG (\w+)=(\S+)", DOCKERFILE, re.MULTILINE))
    assert pinned == {"torch": defaults["TORCH_VERSION"], "torchaudio": defaults["TORCHAUDIO_VERSION"]}


def test_cuda_counts_gpus_as_the_driver_does() -> None:
    """NVML, which the doctor asks, goes by bus; CUDA by speed unless it is told."""
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in DOCKERFILE


def test_no_secret_can_enter_a_layer() -> None:
    names = re.findall(r"^(?:ARG|ENV|    )\s*(\w+)=", DOCKERFILE, re.MULTILINE)
    assert [name for name in names if re.search("TOKEN|SECRET|PASSWORD|_KEY", name)] == []


def test_every_setting_reaches_the_box() -> None:
    passed_on = {name.removesuffix("_FILE") for service in SERVICES.values() for name in service.get("environment", ())}
    wanted = {variable(field) for field in Settings.model_fields if field not in COMPOSE_DECIDES}
    assert wanted - passed_on == set()
    assert passed_on - {variable(field) for field in Settings.model_fields} == MIRRORS | MODALS


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "max-size" in service["logging"]["options"]


@pytest.mark.parametrize("name", [name for name in SERVICES if name != "init"])
def test_a_container_that_serves_is_started_again_and_says_how_it_is(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"]
    assert service["stop_grace_period"]


def test_only_the_service_is_published_and_on_loopback_unless_told_otherwise() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"service": ["${SPILLWAY_PUBLISH_ADDRESS:-127.0.0.1}:${SPILLWAY_PUBLISH_PORT:-8000}:8000"]}


def test_the_worker_holds_no_api_key() -> None:
    mounts = {name: [str(volume) for volume in service.get("volumes", ())] for name, service in SERVICES.items()}
    assert {name for name, volumes in mounts.items() if any(volume.startswith("keys:") for volume in volumes)} == {"init", "service"}


@pytest.mark.parametrize(("token", "holder"), [("SPILLWAY_HF_TOKEN", "worker"), ("SPILLWAY_MODAL_TOKEN_SECRET", "dispatcher")])
def test_a_token_is_given_to_the_one_that_needs_it(token: str, holder: str) -> None:
    assert [name for name, service in SERVICES.items() if token in service.get("environment", ())] == [holder]


def test_redis_writes_before_it_answers_and_evicts_nothing() -> None:
    command = " ".join(SERVICES["redis"]["command"])
    for option in ("--appendonly yes", "--appendfsync always", "--maxmemory-policy noeviction"):
        assert option in command


def test_a_stopping_worker_has_time_to_hand_its_jobs_back() -> None:
    grace_s = float(SERVICES["worker"]["stop_grace_period"].removesuffix("s"))
    assert grace_s >= Settings().stop_grace_s + 15


def test_the_gpus_are_reserved_where_compose_merges_by_itself() -> None:
    override = yaml.safe_load((ROOT / "docker-compose.override.yml").read_text())
    (device,) = override["services"]["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def _default(value: str) -> str:
    found = re.fullmatch(r"\$\{\w+:-(.*)\}", value)
    assert found, value
    return found[1]
