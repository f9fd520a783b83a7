"""Python, glibc and the packages: each way in which the stack was broken before, made in a throw-away environment."""

import sys
from pathlib import Path

import pytest

from core.settings import Settings
from tests.worker.doctor.environments import Doctored, doctor, environment
from worker.doctor.findings import Verdict, faults
from worker.doctor.packages import glibc_finding, package_findings, python_finding

LIFTED = [
    ("numpy", "2.0.0", "numpy 2.0.0 is installed, 1.26.4 is locked: pyannote.audio 3.1.1 uses np.NaN, gone in numpy 2"),
    ("setuptools", "84.0.0", "setuptools 84.0.0 is installed, 75.8.2 is locked: lightning 2.3.3 imports pkg_resources"),
    ("torch", "2.6.0", "torch 2.6.0 is installed, 2.0.0 is locked: torch 2.4 and later bring cuDNN 9"),
    ("ctranslate2", "4.5.0", "ctranslate2 4.5.0 is installed, 4.4.0 is locked: 4.5 and later need cuDNN 9"),
    ("av", "14.0.0", "av 14.0.0 is installed, 12.3.0 is locked: faster-whisper 1.0.0 was made for av 11"),
]


def examined(python: Path, ffmpeg: str) -> Doctored:
    return doctor("--build", python=python, device="cpu", ffmpeg=ffmpeg)


@pytest.fixture(scope="module")
def lifted(tmp_path_factory: pytest.TempPathFactory, ffmpeg: str) -> Doctored:
    """An environment in which every one of them was."""
    versions = {name: version for name, version, _ in LIFTED}
    without = [f"{name}-*.dist-info" for name in versions]
    python, _ = environment(tmp_path_factory.mktemp("lifted") / "venv", without=without, installed=versions)
    return examined(python, ffmpeg)


@pytest.mark.parametrize(("name", "version", "found"), LIFTED)
def test_a_lifted_package_is_named_with_what_it_breaks(name: str, version: str, found: str, lifted: Doctored) -> None:
    (line,) = (finding for finding in lifted.findings if finding.found.startswith(f"{name} {version} "))
    assert lifted.status == 1
    assert (line.check, line.verdict) == ("packages", Verdict.WRONG)
    assert line.found.startswith(found)
    assert f"`pip install --no-deps {name}=={found.split()[4]}`" in line.remedy
    assert "for an image, build it again" in line.remedy


def test_a_package_that_is_not_there_is_missed(tmp_path: Path, ffmpeg: str) -> None:
    python, _ = environment(tmp_path / "venv", without=["av-*.dist-info", "sympy-*.dist-info"])
    line = examined(python, ffmpeg).of("packages")
    assert (line.verdict, line.found) == (Verdict.WRONG, "of the lock, missing here: av 12.3.0, sympy 1.14.0")
    assert "pip install --no-deps av==12.3.0 sympy==1.14.0" in line.remedy


def test_an_environment_that_is_not_the_locks_is_told_so_in_one_line(tmp_path: Path, ffmpeg: str) -> None:
    python, _ = environment(tmp_path / "venv", without=["[a-o]*.dist-info", "s*.dist-info"])
    lines = [finding for finding in examined(python, ffmpeg).findings if finding.check == "packages"]
    assert len(lines) == 1
    assert "more" in lines[0].found
    assert "--require-hashes -r" in lines[0].remedy


def test_two_versions_of_a_package_are_found_both(tmp_path: Path, ffmpeg: str) -> None:
    python, site = environment(tmp_path / "venv", installed={"av": "14.0.0"})
    lines = [finding for finding in examined(python, ffmpeg).findings if finding.check == "packages"]
    assert f"{site} holds av in more than one version: 12.3.0 and 14.0.0" in [line.found for line in lines]
    assert all("pip uninstall av" in line.remedy or "av==12.3.0" in line.remedy for line in lines)


def test_an_environment_without_what_the_doctor_itself_needs_names_it(tmp_path: Path) -> None:
    python, _ = environment(tmp_path / "venv", without=["pydantic"])
    with pytest.raises(AssertionError, match=r"doctor: 1 fault: No module named 'pydantic'\. Install the lock: "):
        doctor(python=python)


def test_pypis_torch_does_not_pass_for_the_images() -> None:
    (line,) = package_findings(Settings(gpu_stack="cu118"))
    assert line.verdict is Verdict.WRONG
    assert line.found.startswith("torch 2.0.0 is installed, 2.0.0+cu118 is locked")
    assert "--index-url https://download.pytorch.org/whl/cu118 torch==2.0.0" in line.remedy


def test_the_checkouts_own_packages_are_as_locked() -> None:
    (line,) = package_findings(Settings())
    assert line.verdict is Verdict.OK
    assert line.found.endswith("packages as locked")


def test_older_copies_in_a_later_folder_are_nobodys_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As setuptools adds one of its own to the path once it is imported."""
    metadata = tmp_path / "typing_extensions-4.12.2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: typing_extensions\nVersion: 4.12.2\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert faults(package_findings(Settings())) == []


def test_locks_that_are_not_beside_the_packages_are_asked_for(tmp_path: Path) -> None:
    (line,) = package_findings(Settings(), tmp_path / "requirements")
    assert line.verdict is Verdict.WRONG
    assert str(tmp_path / "requirements" / "worker.txt") in line.found
    assert f"requirements/ into {tmp_path}" in line.remedy


@pytest.mark.parametrize("version", [(3, 11, 0, "candidate", 1), (3, 12, 3, "final", 0), (3, 10, 12, "final", 0)])
def test_another_python_or_a_release_candidate_is_refused(version: tuple[int | str, ...]) -> None:
    (line,) = faults([python_finding(version)])
    assert ("no released version" in line.found) == (version[3] == "candidate")
    assert all(way in line.remedy for way in ("deadsnakes", "uv python install 3.11", "PYTHON_SOURCE"))


def test_this_python_is_released_and_right() -> None:
    assert python_finding().verdict is Verdict.OK


@pytest.mark.parametrize(("told", "verdict"), [("glibc 2.31", Verdict.OK), ("glibc 2.28", Verdict.WRONG), ("", Verdict.WRONG)])
def test_a_c_library_older_than_the_wheels_is_refused(told: str, verdict: Verdict) -> None:
    line = glibc_finding(told)
    assert line.verdict is verdict
    assert verdict is Verdict.OK or "Ubuntu 22.04" in line.remedy
