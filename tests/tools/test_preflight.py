"""The real script under /bin/sh, on machines made of small programs: each fault is found, and comes with its remedy."""

import os
import pty
import re
import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.tools.fake_box import FakeBox

CHECKS = ("machine", "docker", "compose", "driver", "gpu", "toolkit", "port", "disk", "memory")
NO_DRIVER_CONTACT = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running."
)
PORT_8000 = "0100007F:1F40"
PORT_8000_EVERYWHERE = "00000000:1F40"
PORT_8000_ELSEWHERE = "0501A8C0:1F40"
WSL2 = ("Linux", "x86_64", "5.15.153.1-microsoft-standard-WSL2")


@pytest.fixture
def box(tmp_path: Path) -> FakeBox:
    return FakeBox(tmp_path)


def spoilt(box: FakeBox, change: dict[str, Any]) -> FakeBox:
    """The box with other fields; `info` changes single fields of what Docker says."""
    info = box.docker_info | change.pop("info", {})
    return replace(box, docker_info=info, **change)


def rows(output: str) -> list[tuple[str, str]]:
    """(check, verdict) of every line of the table."""
    found = re.findall(r"^(ok|warning|wrong|not checked) +(\S+)  ", output, re.M)
    return [(check, verdict) for verdict, check in found]


def block(output: str, check: str) -> str:
    """The lines of one check with their remedies."""
    lines, mine = [], False
    for line in output.splitlines():
        if not line.startswith(" "):
            mine = bool(re.match(rf"(ok|warning|wrong|not checked) +{check}  ", line))
        lines += [line] if mine else []
    return "\n".join(lines)


def test_a_good_box_is_ready_and_hears_the_next_command(box: FakeBox) -> None:
    result = box.preflight()
    assert rows(result.stdout) == [(check, "ok") for check in CHECKS]
    assert result.stdout.splitlines()[-1] == "preflight: ready; next: docker compose up -d"
    assert (result.returncode, result.stderr) == (0, "")


def test_without_a_gpu_its_lines_are_skipped_and_the_next_command_is_another(box: FakeBox) -> None:
    result = spoilt(box, {"smi": None, "toolkit": False, "info": {"Runtimes": {"runc": {}}}}).preflight("--cpu")
    assert [check for check, verdict in rows(result.stdout) if verdict == "not checked"] == ["driver", "gpu", "toolkit"]
    assert "next: docker compose -f docker-compose.yml -f docker-compose.cpu.yml up -d" in result.stdout.splitlines()[-1]
    assert result.returncode == 0


FAULTS = {
    "a mac": ("machine", {"kernel": ("Darwin", "arm64", "23.6.0")}, "Linux on x86-64"),
    "an arm server": ("machine", {"kernel": ("Linux", "aarch64", "6.8.0")}, "Linux on x86-64"),
    "WSL1": ("machine", {"kernel": ("Linux", "x86_64", "4.4.0-19041-Microsoft")}, "wsl --set-version"),
    "no docker": ("docker", {"docker": False}, "https://docs.docker.com/engine/install/"),
    "no docker in WSL": ("docker", {"docker": False, "kernel": WSL2}, "WSL integration"),
    "not in the group": ("docker", {"docker_says": "permission denied while trying to connect"}, 'sudo usermod -aG docker "$USER"'),
    "daemon down": (
        "docker",
        {"docker_says": "Cannot connect to the Docker daemon at unix:///var/run/docker.sock."},
        "systemctl start docker",
    ),
    "daemon down elsewhere": (
        "docker",
        {"docker_says": "Cannot connect to the Docker daemon at tcp://a:1.", "environment": {"DOCKER_HOST": "tcp://a:1"}},
        "unset DOCKER_HOST",
    ),
    "Desktop's stub": ("docker", {"docker_says": "The command 'docker' could not be found in this WSL 2 distro."}, "WSL integration"),
    "podman": ("docker", {"docker_says": '{"host":{"buildahVersion":"1.33.7"}}'}, "https://docs.docker.com/engine/install/"),
    "docker broken": ("docker", {"docker_says": "something odd"}, "journalctl -u docker"),
    "docker hangs": ("docker", {"docker_hangs": True, "environment": {"PREFLIGHT_PATIENCE_S": "0.3"}}, "systemctl restart docker"),
    "docker old": ("docker", {"info": {"ServerVersion": "20.10.7"}}, "--only-upgrade docker-ce"),
    "no compose": ("compose", {"compose": None}, "sudo apt-get install -y docker-compose-plugin"),
    "compose v1 alone": ("compose", {"compose": None, "compose_v1": True}, "sudo apt-get install -y docker-compose-plugin"),
    "no driver": ("driver", {"smi": None}, "sudo ubuntu-drivers install"),
    "no driver in WSL": ("driver", {"smi": None, "kernel": WSL2}, "in Windows, never inside WSL"),
    "module not loaded": ("driver", {"smi": NO_DRIVER_CONTACT}, "sudo dkms autoinstall"),
    "updated, not rebooted": ("driver", {"smi": "Failed to initialize NVML: Driver/library version mismatch"}, "sudo reboot"),
    "no card": ("driver", {"smi": "No devices were found"}, "./preflight --cpu"),
    "driver broken": ("driver", {"smi": "Unable to determine the device handle for GPU0000:01:00.0"}, "sudo reboot"),
    "driver hangs": ("driver", {"smi_hangs": True, "environment": {"PREFLIGHT_PATIENCE_S": "0.3"}}, "sudo nvidia-smi -pm 1"),
    "driver old": ("driver", {"driver": "525.60.12"}, "sudo ubuntu-drivers install"),
    "Blackwell": ("gpu", {"cards": ("12.0, [N/A], 32607, 32000, NVIDIA GeForce RTX 5090",)}, "./preflight --cpu"),
    "Blackwell server": ("gpu", {"cards": ("10.0, Disabled, 183359, 182000, NVIDIA B200",)}, "Use a card from Pascal to Hopper"),
    "Maxwell": ("gpu", {"cards": ("5.2, [N/A], 12288, 12000, NVIDIA GeForce GTX TITAN X",)}, "Use a card from Pascal to Hopper"),
    "no toolkit": ("toolkit", {"toolkit": False, "info": {"Runtimes": {"runc": {}}}}, "container-toolkit/latest/install-guide.html"),
    "toolkit not configured": ("toolkit", {"info": {"Runtimes": {"runc": {}}}}, "sudo nvidia-ctk runtime configure --runtime=docker"),
    "toolkit, rootless": (
        "toolkit",
        {"info": {"Runtimes": {"runc": {}}, "SecurityOptions": ["name=rootless"]}},
        "systemctl --user restart docker",
    ),
    "Desktop on Linux": ("toolkit", {"info": {"Runtimes": {"runc": {}}, "OperatingSystem": "Docker Desktop"}}, "Use Docker Engine"),
    "port taken": ("port", {"listening": (PORT_8000,)}, "SPILLWAY_PUBLISH_PORT=8001"),
    "port taken on all addresses": ("port", {"listening": (PORT_8000_EVERYWHERE,)}, "sudo ss -ltnp 'sport = :8000'"),
    "port of a container": ("port", {"listening": (PORT_8000,), "publisher": "web-1 /srv/web"}, "by the container web-1"),
    "port of .env taken": ("port", {"listening": ("0100007F:2328",), "dotenv": 'SPILLWAY_PUBLISH_PORT="9000" # mine\n'}, "9000 is taken"),
    "a port too high": ("port", {"dotenv": "SPILLWAY_PUBLISH_PORT=65536\n"}, "a number from 1 to 65535"),
    "a port with a zero before it": ("port", {"dotenv": "SPILLWAY_PUBLISH_PORT=08000\n"}, "a number from 1 to 65535"),
    "no port": ("port", {"dotenv": "SPILLWAY_PUBLISH_PORT=http\n"}, "a number from 1 to 65535"),
    "disk full": ("disk", {"free_gb": {"/var/lib": 39.9}}, "docker system df"),
    "images on a full disk": (
        "disk",
        {"free_gb": {"/var/lib/docker": 500, "/var/lib/containerd": 12}, "info": {"DriverStatus": [["t", "io.containerd.snapshotter.v1"]]}},
        "12 GB free at /var/lib/containerd",
    ),
}


@pytest.mark.parametrize(("check", "change", "remedy"), FAULTS.values(), ids=FAULTS)
def test_each_fault_is_found_with_its_remedy(box: FakeBox, check: str, change: dict[str, Any], remedy: str) -> None:
    result = spoilt(box, dict(change)).preflight()
    assert [name for name, verdict in rows(result.stdout) if verdict == "wrong"] == [check]
    assert remedy in block(result.stdout, check)
    assert result.stdout.splitlines()[-1].startswith("preflight: 1 fault;")
    assert (result.returncode, result.stderr) == (1, "")


WARNINGS = {
    "docker elsewhere": ("docker", {"environment": {"DOCKER_HOST": "ssh://gpu"}}, "run ./preflight there"),
    "a small card": ("gpu", {"cards": ("6.1, [N/A], 4096, 4000, NVIDIA GeForce GTX 1050 Ti",)}, "SPILLWAY_ASR_MODEL=small"),
    "a busy card": ("gpu", {"cards": ("8.6, [N/A], 8192, 1200, NVIDIA GeForce RTX 3070",)}, "nvidia-smi names them"),
    "MIG": ("gpu", {"cards": ("8.0, Enabled, 40960, 40000, NVIDIA A100-SXM4-40GB",)}, "one slice"),
    "generation unknown": ("gpu", {"cards": ("[Not Supported], [N/A], [N/A], [N/A], NVIDIA Graphics, Device",)}, "the doctor in the image"),
    "one of two is Blackwell": (
        "gpu",
        {"cards": ("8.9, [N/A], 24564, 24000, NVIDIA GeForce RTX 4090", "12.0, [N/A], 32607, 32000, NVIDIA GeForce RTX 5090")},
        "device_ids in docker-compose.override.yml",
    ),
    "CDI only": (
        "toolkit",
        {"info": {"Runtimes": {"runc": {}}, "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]}},
        "sudo nvidia-ctk runtime configure",
    ),
    "Desktop's disk": ("disk", {"info": {"OperatingSystem": "Docker Desktop"}, "kernel": WSL2}, "cannot be measured from here"),
    "a disk that the stack itself filled": ("disk", {"free_gb": {"/": 11}, "containers": ("running",)}, "docker system df"),
    "little memory": ("memory", {"memory_gib": 5.8}, "SPILLWAY_ASR_MODEL=small"),
    "little memory in WSL": ("memory", {"memory_gib": 5.8, "kernel": WSL2}, ".wslconfig"),
}


@pytest.mark.parametrize(("check", "change", "advice"), WARNINGS.values(), ids=WARNINGS)
def test_what_may_trouble_later_is_a_warning_and_stops_nothing(box: FakeBox, check: str, change: dict[str, Any], advice: str) -> None:
    result = spoilt(box, dict(change)).preflight()
    assert (check, "warning") in rows(result.stdout)
    assert advice in block(result.stdout, check)
    assert "preflight: ready" in result.stdout
    assert (result.returncode, result.stderr) == (0, "")


FINE = {
    "the driver's least version": ({"driver": "525.60.13"}, "driver", "525.60.13"),
    "a Hopper card": ({"cards": ("9.0, Disabled, 81559, 81079, NVIDIA H100 80GB HBM3",)}, "gpu", "79.6 GiB"),
    "a name with commas": (
        {"cards": ("7.5, [N/A], 15360, 15000, Quadro, of 2018, T4",)},
        "gpu",
        "0: Quadro, of 2018, T4, compute capability 7.5",
    ),
    "a small card with a small model": (
        {"cards": ("6.1, [N/A], 4096, 4000, P",), "dotenv": "SPILLWAY_ASR_MODEL='small'\n"},
        "gpu",
        "4.0 GiB",
    ),
    "a card that our own worker fills": ({"cards": ("8.6, [N/A], 8192, 1200, R",), "containers": ("running",)}, "gpu", "1.2 GiB free"),
    "the engine's least version": ({"info": {"ServerVersion": "20.10.10"}}, "docker", "20.10.10"),
    "a distribution's version": ({"compose": "v2.20.2+ds1-0ubuntu1~22.04.1"}, "compose", "2.20.2"),
    "rootless": ({"info": {"SecurityOptions": ["name=seccomp", "name=rootless"]}}, "docker", "rootless"),
    "WSL2": ({"kernel": WSL2}, "machine", "WSL2"),
    "our own stack on the port": ({"listening": (PORT_8000,), "publisher": "spillway-service-1 CHECKOUT"}, "port", "held by this stack"),
    "another address of the same port": ({"listening": (PORT_8000_ELSEWHERE,)}, "port", "8000 is free"),
    "the port of .env": ({"listening": (PORT_8000,), "dotenv": "export SPILLWAY_PUBLISH_PORT=9000\r\n"}, "port", "9000 is free"),
    "the environment before .env": (
        {"environment": {"SPILLWAY_PUBLISH_PORT": "9001"}, "dotenv": "SPILLWAY_PUBLISH_PORT=9000\n"},
        "port",
        "9001 is free",
    ),
    "40 GB": ({"free_gb": {"/var": 40.5}}, "disk", "40 GB free at /var/lib/docker"),
    "what the kernel leaves of 8 GB": ({"memory_gib": 7.6}, "memory", "7.6 GB"),
}


@pytest.mark.parametrize(("change", "check", "found"), FINE.values(), ids=FINE)
def test_what_is_good_enough_is_ok(box: FakeBox, change: dict[str, Any], check: str, found: str) -> None:
    result = spoilt(box, dict(change)).preflight()
    assert rows(result.stdout) == [(name, "ok") for name in CHECKS]
    assert found in block(result.stdout, check)


def test_an_old_driver_still_names_its_cards(box: FakeBox) -> None:
    result = replace(box, smi_is_old=True, driver="470.256.02", cards=("?, ?, 16160, 16000, Tesla V100-SXM2-16GB",)).preflight()
    assert ("driver", "wrong") in rows(result.stdout)
    assert "0: Tesla V100-SXM2-16GB, compute capability unknown, 15.8 GiB" in block(result.stdout, "gpu")


def test_every_card_has_its_line(box: FakeBox) -> None:
    result = replace(box, cards=("8.0, Disabled, 40960, 40000, NVIDIA A100",) * 8).preflight()
    assert [check for check, _ in rows(result.stdout)].count("gpu") == 8


def test_a_box_with_everything_wrong_hears_it_all_at_once(box: FakeBox) -> None:
    wrong = {
        "kernel": ("Linux", "aarch64", "6.8.0"),
        "compose": None,
        "driver": "470.57.02",
        "cards": ("12.0, [N/A], 32607, 32000, NVIDIA GeForce RTX 5090",),
        "toolkit": False,
        "listening": (PORT_8000,),
        "free_gb": {"/": 3},
        "info": {"ServerVersion": "18.09.1", "Runtimes": {"runc": {}}},
    }
    result = spoilt(box, wrong).preflight()
    assert [check for check, verdict in rows(result.stdout) if verdict == "wrong"] == list(CHECKS[:-1])
    assert result.stdout.splitlines()[-1].startswith("preflight: 8 faults;")
    assert result.returncode == 1


def test_the_env_file_is_read_and_never_run(box: FakeBox) -> None:
    result = replace(box, dotenv="touch ran\n$(touch ran)\nSPILLWAY_PUBLISH_PORT=$(touch ran)\n").preflight()
    assert "is '$(touch ran)', which is no port" in result.stdout
    assert not list(box.folder.rglob("ran"))


def test_a_real_listener_is_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        result = subprocess.run(
            [ROOT / "preflight", "--cpu"],
            env=os.environ | {"SPILLWAY_PUBLISH_PORT": str(port)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert f"{port} is taken" in block(result.stdout, "port")


def test_an_option_that_it_does_not_know_is_refused_with_the_usage(box: FakeBox) -> None:
    result = box.preflight("--gpu")
    assert result.returncode == 2
    assert result.stderr.startswith("usage: ./preflight")


def test_help_says_what_it_does_and_checks_nothing(box: FakeBox) -> None:
    result = box.preflight("--help")
    assert (result.returncode, rows(result.stdout)) == (0, [])
    assert "--cpu" in result.stdout


@pytest.mark.parametrize(("environment", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colour_is_for_terminals_that_want_it(environment: dict[str, str], is_coloured: bool) -> None:
    assert ("\033[3" in on_a_terminal({"TERM": "xterm", "NO_COLOR": ""} | environment)) is is_coloured


def on_a_terminal(environment: dict[str, str]) -> str:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        subprocess.run([ROOT / "preflight", "--cpu"], env=os.environ | environment, stdout=theirs, check=False)
        os.close(theirs)
        return screen.read(65536).decode()


def test_every_check_has_a_row_in_its_document() -> None:
    parts = [ROOT / "preflight", *(ROOT / "tools" / "preflight").glob("*.sh")]
    named = {name for part in parts for name in re.findall(r"\brow (?:ok|warning|wrong|'not checked') (\w+)", part.read_text())}
    documented = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "preflight.md").read_text(), re.M))
    assert named == documented == set(CHECKS)
