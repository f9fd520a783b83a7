"""A small lock through the code of the real one. Its packages are real: they come from the index, as in `make setup`."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from importlib.metadata import Distribution, version
from pathlib import Path
from urllib.parse import quote

import pytest

from tools.bundle import OURS, ROOT, Plan, make
from tools.locks import LOCKS, read_pins
from tools.site_tree import differences, digests
from tools.wheels import Wheel, WheelsMissing

# docopt has no wheel, tqdm brings a command. The pair is a wheel of our own, from an index of its own.
SMALL = ("docopt", "packaging", "tqdm")


@pytest.fixture(scope="module")
def uv() -> str:
    return subprocess.run(["sh", str(ROOT / "tools" / "uv.sh")], capture_output=True, text=True, check=True).stdout.strip()


def write_wheel(folder: Path, *requires: str) -> Path:
    """Named as the cu118 index names torch's."""
    path = folder / "torchling-2.0.0+cu118-cp311-cp311-linux_x86_64.whl"
    info = "torchling-2.0.0+cu118.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("torchling.py", "")
        needs = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torchling\nVersion: 2.0.0+cu118\n{needs}")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp311-cp311-linux_x86_64\n")
        wheel.writestr(f"{info}/RECORD", f"torchling.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


def write_lock(path: Path, *packages: str) -> Path:
    """Cut from the worker's."""
    pins = read_pins((LOCKS / "worker.txt").read_text())
    hashes = {package: " ".join(f"--hash={digest}" for digest in pins[package].hashes) for package in packages}
    lines = (f"{package}=={pins[package].version} {hashes[package]}\n" for package in packages)
    path.write_text("--only-binary :all:\n--no-binary docopt\n" + "".join(lines))
    return path


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    locks, index = tmp_path_factory.mktemp("locks"), tmp_path_factory.mktemp("index")
    (index / "torchling").mkdir()
    wheel = write_wheel(index / "torchling", "nvidia-cudnn-cu11 (==8.5.0.96)")
    (index / "torchling" / "index.html").write_text(f'<a href="{quote(wheel.name)}">{wheel.name}</a>')
    (locks / "pair.txt").write_text("torchling==2.0.0\n")
    return Plan(
        OURS.installer,
        {"worker": write_lock(locks / "worker.txt", *SMALL)},
        {"worker": locks / "pair.txt"},
        write_lock(locks / "needs.txt", "idna"),
        index=index.as_uri(),
        profile="",
    )


@pytest.fixture(scope="module")
def bundle(plan: Plan, uv: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(plan, tmp_path_factory.mktemp("dist"), uv, print)


def install(bundle: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Without a network: in a namespace that has none, or, where those are forbidden, behind proxies that nobody answers for."""
    alone = ["unshare", "--map-root-user", "--net"]
    allowed = shutil.which("unshare") and subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    environment = {**os.environ, **proxies, "PYTHON": os.path.join(sys.base_prefix, "bin", "python3.11")}
    command = [*(alone if allowed else []), str(bundle / "install"), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_two_installs_from_a_bundle_without_a_network_are_the_same_to_the_byte(bundle: Path, tmp_path: Path) -> None:
    for folder in (tmp_path / "one", tmp_path / "far" / "off" / "another"):
        done = install(bundle, folder)
        assert done.returncode == 0, done.stderr
    assert differences(tmp_path / "one", tmp_path / "far" / "off" / "another") == []
    assert {"docopt.py", "idna/core.py", "torchling.py", "tqdm/cli.py"} <= digests(tmp_path / "one").keys()
    ran = subprocess.run([tmp_path / "one" / "bin" / "tqdm", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == version("tqdm")


def test_a_bundles_lock_names_the_very_files_that_are_in_it(bundle: Path) -> None:
    pins = read_pins((bundle / "worker.txt").read_text())
    assert pins.keys() == {*SMALL, "idna", "torchling"}
    assert pins["torchling"].version == "2.0.0+cu118"
    assert all(len(pin.hashes) == 1 for pin in pins.values())


def test_a_source_package_was_built_once_by_what_the_lock_names(bundle: Path, tmp_path: Path) -> None:
    assert [path.suffix for path in (bundle / "wheels").iterdir()] == [".whl"] * 6
    shutil.unpack_archive(next(bundle.glob("wheels/docopt-*.whl")), tmp_path, "zip")
    wheel = Distribution.at(next(tmp_path.glob("*.dist-info"))).read_text("WHEEL")
    setuptools = read_pins((LOCKS / "worker.txt").read_text())["setuptools"].version
    assert wheel
    assert re.findall(r"Generator: (.*)", wheel) == [f"setuptools ({setuptools})"]


def test_a_damaged_bundle_installs_nothing(bundle: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(bundle, tmp_path / "bundle")
    with next(damaged.glob("wheels/idna-*.whl")).open("ab") as wheel:
        wheel.write(b"x")
    done = install(damaged, tmp_path / "there")
    assert done.returncode == 1
    assert "the bundle is damaged: bring it here once more" in done.stderr
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say where: ./install FOLDER [worker|service]"),
        (["{free}", "gpu"], "there is no gpu in this bundle: worker or service"),
        (["{taken}"], "is there already: name a folder that is not"),
    ],
)
def test_what_install_cannot_do_it_says(bundle: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    done = install(bundle, *(argument.format(free=tmp_path / "free", taken=tmp_path) for argument in arguments))
    assert done.returncode == 1
    assert said in done.stderr


def test_a_bundle_that_is_there_is_not_made_again(plan: Plan, bundle: Path) -> None:
    said: list[str] = []
    assert make(plan, bundle.parent, "no uv is needed", said.append) == bundle
    assert said == [f"{bundle} is there already: remove it to make it again"]


def test_another_lock_or_index_is_another_bundle(plan: Plan) -> None:
    others = [replace(plan, index="https://index.example"), replace(plan, pairs={"worker": OURS.pairs["worker"]})]
    assert len({plan.digest, *(other.digest for other in others)}) == 3


def test_a_bundle_that_could_not_be_filled_leaves_nothing_behind(plan: Plan, uv: str, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.txt"
    wrong.write_text(f"idna==3.10 --hash=sha256:{'0' * 64}\n")
    with pytest.raises(WheelsMissing):
        make(replace(plan, roles={"worker": wrong}), tmp_path / "dist", uv, print)
    assert list((tmp_path / "dist").iterdir()) == []


@pytest.mark.parametrize(
    ("requires", "takes"),
    [(("nvidia-cudnn-cu11 (==8.5.0.96)", "sympy"), True), (("sympy", 'triton (==2.0.0) ; platform_system == "Linux"'), False), ((), False)],
)
def test_only_a_torch_that_names_cuda_packages_gets_them(tmp_path: Path, requires: tuple[str, ...], takes: bool) -> None:
    assert Wheel(write_wheel(tmp_path, *requires)).takes_cuda_from_packages is takes


def test_environments_differ_by_content_and_by_presence(tmp_path: Path) -> None:
    for environment, text in (("one", "a"), ("other", "b")):
        site = tmp_path / environment / "lib" / "python3.11" / "site-packages"
        site.mkdir(parents=True)
        (site / "same.py").write_text("")
        (site / "changed.py").write_text(text)
        (site / f"only_in_{environment}.py").write_text("")
        (site / "changed.pyc").write_text(text)
    assert differences(tmp_path / "one", tmp_path / "other") == ["changed.py", "only_in_one.py", "only_in_other.py"]
