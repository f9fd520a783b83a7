"""The CUDA libraries, with the checkout's real ones linked into planted folders; no GPU is needed to find or to miss them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from core.settings import Settings
from tests.conftest import ROOT
from tests.worker.doctor.environments import SITE, Doctored, doctor, environment, linked_deeply
from worker.doctor.examine import examine
from worker.doctor.findings import Finding, Verdict
from worker.doctor.libraries import QUESTIONS, library_findings, unasked_finding, why_not_asked
from worker.doctor.occasion import Occasion
from worker.doctor.probing import Answer

pytestmark = pytest.mark.models
OPS, CNN = "libcudnn_ops_infer.so.8", "libcudnn_cnn_infer.so.8"
CUDNN = SITE / "nvidia" / "cudnn" / "lib"
LINES = {"libcublas.so.11", "libcublas.so.12", "libnvrtc.so", OPS, CNN, "cuDNN dispatcher", "cuDNN sets"}


def examined(ffmpeg: str, *folders: Path, stack: str = "auto", **more: Path) -> Doctored:
    return doctor("--build", library_path=os.pathsep.join(map(str, folders)), gpu_stack=stack, ffmpeg=ffmpeg, **more)


def plant(folder: Path, name: str, source: Path) -> Path:
    """A file of its own with the library's content: a link would be the same library to the loader."""
    folder.mkdir(exist_ok=True)
    try:
        os.link(source.resolve(), folder / name)
    except OSError:  # another file system
        shutil.copy(source, folder / name)
    return folder


@pytest.fixture
def toolkit(tmp_path: Path) -> Path:
    """What CUDA's devel image would bring, by name."""
    folder = tmp_path / "toolkit"
    plant(folder, "libcublas.so.12", SITE / "nvidia" / "cublas" / "lib" / "libcublas.so.11")
    return plant(folder, "libnvrtc.so", SITE / "nvidia" / "cuda_nvrtc" / "lib" / "libnvrtc.so.11.2")


def test_with_every_library_in_sight_all_lines_are_right(toolkit: Path, ffmpeg: str) -> None:
    doctored = examined(ffmpeg, CUDNN, toolkit)
    assert doctored.wrong() == set()
    assert {line: doctored.of(line).verdict for line in LINES} == dict.fromkeys(LINES, Verdict.OK)
    assert doctored.of(OPS).found == f"{(CUDNN / OPS).resolve()}, version 8.5.0"
    assert doctored.of("libcublas.so.11").found.endswith("libcublas.so.11, version 11.10.3")
    assert doctored.of("libnvrtc.so").found.endswith(", version 11.7")
    assert "sm_86" in doctored.of("torch").found


def test_without_cudnn_in_sight_the_abort_of_the_first_job_is_found_now(ffmpeg: str) -> None:
    doctored = examined(ffmpeg)
    line = doctored.of("cuDNN dispatcher")
    assert doctored.status == 1
    assert doctored.wrong() == {OPS, CNN, "cuDNN dispatcher"}
    assert line.found.startswith(f"the process was ended by SIGABRT: Could not load library {OPS}")
    assert all(f"{CUDNN}` before the process starts" in doctored.of(check).remedy for check in (OPS, CNN, "cuDNN dispatcher"))


def test_a_second_set_of_cudnn_is_found_with_both_places(tmp_path: Path, ffmpeg: str) -> None:
    other = plant(tmp_path / "other", OPS, Path(__file__))
    line = examined(ffmpeg, CUDNN, other).of("cuDNN sets")
    assert line.verdict is Verdict.WRONG
    assert str(CUDNN.resolve()) in line.found
    assert f"{other} (by LD_LIBRARY_PATH)" in line.found
    assert line.remedy.startswith(f"keep torch's own, {CUDNN}, and take every other away: out of LD_LIBRARY_PATH")


def test_parts_out_of_two_folders_are_no_set(tmp_path: Path, ffmpeg: str) -> None:
    half = plant(tmp_path / "half", OPS, CUDNN / OPS)
    doctored = examined(ffmpeg, half, CUDNN)
    assert doctored.of(OPS).found.startswith(str(half))
    assert doctored.of(CNN).found.startswith(str(CUDNN.resolve()))
    assert doctored.wrong() == {"cuDNN sets"}


def test_a_file_that_cannot_be_loaded_is_named_and_hides_nothing(tmp_path: Path, ffmpeg: str) -> None:
    broken = plant(tmp_path / "broken", CNN, Path(__file__))
    doctored = examined(ffmpeg, broken, CUDNN)
    assert doctored.wrong() == {CNN, "cuDNN dispatcher", "cuDNN sets"}
    assert "invalid ELF header" in doctored.of(CNN).found
    assert doctored.of(CNN).remedy.startswith(f"{broken / CNN} is no library that can be loaded")
    assert doctored.of(OPS).verdict is Verdict.OK


def test_without_cublas_nothing_of_torch_works_and_the_line_says_so(tmp_path: Path, ffmpeg: str) -> None:
    python, site = environment(tmp_path / "venv", without=["nvidia", "torch"])
    linked_deeply(SITE / "torch" / "lib", site / "torch" / "lib")
    for part in (SITE / "torch").iterdir():
        if part.name != "lib":
            (site / "torch" / part.name).symlink_to(part)
    for package in (SITE / "nvidia").glob("*/lib"):
        if package.parent.name != "cublas":
            linked_deeply(package, site / package.relative_to(SITE))
    doctored = examined(ffmpeg, site / "nvidia" / "cudnn" / "lib", python=python)
    assert {"torch", "libcublas.so.11", OPS} <= doctored.wrong()
    assert doctored.of("libcublas.so.11").found.startswith("libcublas.so.11: cannot open shared object file")
    assert "install torch again" in doctored.of("libcublas.so.11").remedy
    assert "cannot be imported: libcublas.so" in doctored.of("torch").found
    assert "install torch again" in doctored.of("torch").remedy


@pytest.mark.parametrize(
    ("folder", "others"), [("torch/lib", ()), ("nvidia/cudnn/lib", ("nvidia/cublas/lib",))], ids=["cu118's wheel", "PyPI's wheel"]
)
def test_the_path_to_export_is_that_of_the_wheel_which_is_there(folder: str, others: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "torch" / "lib").mkdir(parents=True)
    (tmp_path / "torch" / "__init__.py").touch()
    for name, place in ((OPS, folder), (CNN, folder), ("libcublas.so.11", *(others or (folder,)))):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / name).touch()
    command = [sys.executable, "-c", "from worker.doctor.libraries import export; print(export())"]
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    said = subprocess.run(command, env={"PYTHONPATH": path, "LD_LIBRARY_PATH": "/cuda"}, capture_output=True, text=True, check=True).stdout
    folders = [*sorted(str(tmp_path / place) for place in (folder, *others)), "/cuda"]
    assert said == f"`export LD_LIBRARY_PATH={':'.join(folders)}` before the process starts\n"


def test_an_image_with_a_library_missing_does_not_pass_its_build(ffmpeg: str) -> None:
    doctored = examined(ffmpeg, CUDNN, stack="cu118")
    assert doctored.status == 1
    assert doctored.wrong() == {"packages", "libcublas.so.12", "libnvrtc.so"}
    assert "build the image on nvidia/cuda:12.4.0-devel-ubuntu22.04" in doctored.of("libcublas.so.12").remedy
    assert "ln -s libnvrtc.so.11.2" in doctored.of("libnvrtc.so").remedy


@pytest.mark.parametrize(
    ("stack", "device", "why"),
    [
        ("auto", "cpu", "SPILLWAY_DEVICE=cpu"),
        ("none", "cpu", "built without CUDA (GPU_STACK=none)"),
        ("none", "cuda", "built without CUDA (GPU_STACK=none)"),
        ("auto", "cuda", ""),
        ("cu118", "cuda", ""),
        ("cu118", "cpu", ""),
    ],
)
def test_libraries_are_asked_for_where_a_gpu_is_to_be_used(stack: str, device: str, why: str) -> None:
    assert why_not_asked(Settings.model_validate({"gpu_stack": stack, "device": device})) == why


def test_a_gpu_is_refused_by_what_was_built_without_one_save_at_its_build() -> None:
    settings = Settings(gpu_stack="none", device="cuda")
    assert unasked_finding(settings, Occasion.BUILD).verdict is Verdict.NOT_CHECKED
    line = unasked_finding(settings, Occasion.START)
    assert line.verdict is Verdict.WRONG
    assert "GPU_STACK=cu118" in line.remedy
    assert "SPILLWAY_DEVICE=cpu" in line.remedy


def test_a_cpu_stack_is_examined_without_loading_torch(ffmpeg: str) -> None:
    checks = {finding.check for finding in examine(Settings(device="cpu", ffmpeg=ffmpeg), Occasion.BUILD)}
    assert "GPU libraries" in checks
    assert checks.isdisjoint({*LINES, "torch", "CTranslate2"})


def findings(**answers: Answer) -> dict[str, Finding]:
    whole = {
        "torch": Answer({"version": "2.0.0+cu118", "cuda": "11.8", "archs": ["sm_90"]}),
        "ctranslate2": Answer({"version": "4.4.0"}),
        "dispatcher": Answer({"path": "x", "version": "8.7.0", "statuses": {"ops_infer": 0, "cnn_infer": 0}}),
    }
    libraries = {name: Answer({"path": f"/torch/lib/{name}", "version": None}) for name in QUESTIONS if name.startswith("lib")}
    return {finding.check: finding for finding in library_findings(Settings(), whole | libraries | answers)}


@pytest.mark.parametrize(("cuda", "verdict"), [("11.8", Verdict.WRONG), ("11.7", Verdict.WARNING)])
def test_an_nvrtc_without_a_plain_name_is_a_fault_where_cudnn_8_7_asks_for_it(cuda: str, verdict: Verdict) -> None:
    torch = Answer({"version": "2.0.0", "cuda": cuda, "archs": []})
    missing = Answer(error="libnvrtc.so: cannot open shared object file: No such file or directory")
    assert findings(**{"libnvrtc.so": missing, "torch": torch})["libnvrtc.so"].verdict is verdict


def test_a_torch_for_the_cpu_alone_and_parts_that_do_not_fit_are_wrong() -> None:
    torch = Answer({"version": "2.0.0+cpu", "cuda": None, "archs": []})
    dispatcher = Answer({"path": "x", "version": "8.7.0", "statuses": {"ops_infer": 0, "cnn_infer": 1}})
    lines = findings(torch=torch, dispatcher=dispatcher)
    assert lines["torch"].verdict is Verdict.WRONG
    assert "GPU_STACK=cu118" in lines["torch"].remedy
    assert lines["cuDNN dispatcher"].found == "its parts do not fit together: status ops_infer 0, cnn_infer 1"
