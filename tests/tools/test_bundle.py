"""A small lock through the code of the real one. Its packages are real: they come from the index, as in `make setup`."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import Distribution, version
from pathlib import Path

import pytest

from tools.bundle import OURS, ROOT, Plan, make
from tools.locks import LOCKS, read_pins
from tools.site_tree import differences, digests
from tools.wheels import WheelsMissing

# docopt has no wheel, tqdm brings a command, idna comes without a hash.
SMALL = ("docopt", "packaging", "tqdm")


@pytest.fixture(scope="module")
def uv() -> str:
    return subprocess.run(["sh", str(ROOT / "tools" / "uv.sh")], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    locks = tmp_path_factory.mktemp("locks")
    pins = read_pins((LOCKS / "worker.txt").read_text())
    lines = (f"{package}=={pins[package].version} {' '.join(f'--hash={digest}' for digest in pins[package].hashes)}\n" for package in SMALL)
    (locks / "worker.txt").write_text("--only-binary :all:\n--no-binary docopt\n" + "".join(lines))
    (locks / "pair.txt").write_text(f"idna=={pins['idna'].version}\n")
    return Plan(OURS.installer, {"worker": locks / "worker.txt"}, {"worker": locks / "pair.txt"}, OURS.pair_needs, profile="")


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
    assert {"docopt.py", "idna/core.py", "tqdm/cli.py"} <= digests(tmp_path / "one").keys()
    ran = subprocess.run([tmp_path / "one" / "bin" / "tqdm", "--version"], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == version("tqdm")


def test_a_bundles_lock_names_the_very_files_that_are_in_it(bundle: Path) -> None:
    pins = read_pins((bundle / "worker.txt").read_text())
    assert pins.keys() == {*SMALL, "idna"}
    assert all(len(pin.hashes) == 1 for pin in pins.values())


def test_a_source_package_was_built_once_by_what_the_lock_names(bundle: Path, tmp_path: Path) -> None:
    assert [path.suffix for path in (bundle / "wheels").iterdir()] == [".whl"] * 5
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


def test_environments_differ_by_content_and_by_presence(tmp_path: Path) -> None:
    for environment, text in (("one", "a"), ("other", "b")):
        site = tmp_path / environment / "lib" / "python3.11" / "site-packages"
        site.mkdir(parents=True)
        (site / "same.py").write_text("")
        (site / "changed.py").write_text(text)
        (site / f"only_in_{environment}.py").write_text("")
        (site / "changed.pyc").write_text(text)
    assert differences(tmp_path / "one", tmp_path / "other") == ["changed.py", "only_in_one.py", "only_in_other.py"]
