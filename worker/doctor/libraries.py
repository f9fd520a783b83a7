"""The CUDA libraries: which file each name resolves to in a process like the worker's, and what makes it right.

Facts behind it, seen on an H100: without both parts of cuDNN 8 the first convolution aborts the process, no exception; so do parts of
two sets; CTranslate2 runs on torch's cuBLAS 11 when torch brought it, and without either cuBLAS not at all.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from core.settings import Settings
from worker.doctor.cudnn_sets import PARTS, library_path, reachable_sets, torch_folders
from worker.doctor.findings import Finding, Verdict
from worker.doctor.occasion import Occasion
from worker.doctor.probing import Answer

CUBLAS_11, CUBLAS_12, NVRTC = "libcublas.so.11", "libcublas.so.12", "libnvrtc.so"
# The dispatcher before the parts: it finds them as a job would, and whoever asks first decides for all.
QUESTIONS = ("torch", "ctranslate2", CUBLAS_11, CUBLAS_12, NVRTC, "dispatcher", *PARTS)
NAMES = {"ctranslate2": "CTranslate2", "dispatcher": "cuDNN dispatcher"}
BASE_IMAGE = "nvidia/cuda:12.4.0-devel-ubuntu22.04"
NOT_THERE = "cannot open shared object file: No such file"


def why_not_asked(settings: Settings, occasion: Occasion) -> str:
    """Empty when a GPU is to be used, or the image was built for one; a start on the CPU does not wait for libraries of no use to it."""
    if settings.gpu_stack == "none":
        return "built without CUDA (GPU_STACK=none)"
    is_of_no_use = settings.gpu_stack == "auto" or occasion in (Occasion.START, Occasion.BURST)
    return "SPILLWAY_DEVICE=cpu" if is_of_no_use and settings.device == "cpu" else ""


def unasked_finding(settings: Settings, occasion: Occasion) -> Finding:
    """In place of all the library lines; a GPU that was asked for in vain is a fault."""
    why = why_not_asked(settings, occasion)
    if settings.gpu_stack == "none" and settings.device == "cuda" and occasion is not Occasion.BUILD:
        remedy = "build the image with GPU_STACK=cu118, or set SPILLWAY_DEVICE=cpu to run without a GPU"
        return Finding("GPU libraries", Verdict.WRONG, f"{why}, and SPILLWAY_DEVICE is cuda", remedy)
    return Finding("GPU libraries", Verdict.NOT_CHECKED, why)


def library_findings(settings: Settings, answers: Mapping[str, Answer]) -> Iterator[Finding]:
    """`answers` are the probe's to all of `QUESTIONS`."""
    yield _torch(answers["torch"])
    yield _ctranslate2(answers["ctranslate2"])
    for name in (CUBLAS_11, CUBLAS_12, NVRTC, *PARTS):
        yield _library(name, answers[name], _what_then(name, settings, answers["torch"]))
    yield _dispatcher(answers["dispatcher"])
    yield _one_set(answers)


def _torch(answer: Answer) -> Finding:
    told = answer.value
    if answer.error:
        return Finding("torch", Verdict.WRONG, f"cannot be imported: {answer.error}", _remedy(answer.error))
    if not told["cuda"]:
        return Finding("torch", Verdict.WRONG, f"{told['version']}, built without CUDA", _torch_again())
    return Finding("torch", Verdict.OK, f"{told['version']}, CUDA {told['cuda']}, {' '.join(told['archs'])}")


def _ctranslate2(answer: Answer) -> Finding:
    if answer.error:
        remedy = "install it again as requirements/worker.txt has it, or build the image again; mend the lines of torch and packages first"
        return Finding(NAMES["ctranslate2"], Verdict.WRONG, f"cannot be imported: {answer.error}", remedy)
    return Finding(NAMES["ctranslate2"], Verdict.OK, str(answer.value["version"]))


def _library(name: str, answer: Answer, what_then: str) -> Finding:
    if not answer.error:
        version = answer.value["version"]
        return Finding(name, Verdict.OK, f"{answer.value['path']}{f', version {version}' if version else ''}")
    if what_then:
        return Finding(name, Verdict.WARNING, f"{answer.error}; {what_then}", _remedy(answer.error))
    return Finding(name, Verdict.WRONG, answer.error, _remedy(answer.error))


def _what_then(name: str, settings: Settings, torch: Answer) -> str:
    """How it works without the library; empty if it does not."""
    if settings.gpu_stack == "cu118":  # the image has it, by design
        return ""
    if name == CUBLAS_12:
        return "CTranslate2 then runs on torch's cuBLAS 11"
    needs_nvrtc = torch.value.get("cuda") == "11.8"  # its cuDNN 8.7 asks for the name at once, 8.5 only to fuse kernels
    return "" if name != NVRTC or needs_nvrtc else "the cuDNN 8.7 of torch 2.0.0+cu118 would abort without it"


def _dispatcher(answer: Answer) -> Finding:
    check = NAMES["dispatcher"]
    if answer.error:
        remedy = f"the first job would end so: mend the lines of {PARTS[0]}, {PARTS[1]} and cuDNN sets. {_remedy(answer.error)}"
        return Finding(check, Verdict.WRONG, answer.error, remedy)
    statuses = answer.value["statuses"]
    if any(statuses.values()):
        said = ", ".join(f"{part} {status}" for part, status in statuses.items())
        return Finding(check, Verdict.WRONG, f"its parts do not fit together: status {said}", _keep_one())
    return Finding(check, Verdict.OK, f"loads both parts, version {answer.value['version']}")


def _one_set(answers: Mapping[str, Answer]) -> Finding:
    """Found by looking, and by what was loaded: a set that is merely reachable is the one loaded after the next update."""
    sets = dict(reachable_sets())
    for part in PARTS:
        if not answers[part].error:
            sets.setdefault(Path(str(answers[part].value["path"])).parent, ["loaded"])
    places = [f"{folder} (by {', '.join(how)})" for folder, how in sets.items()]
    if len(sets) == 1:
        return Finding("cuDNN sets", Verdict.OK, f"one: {places[0]}")
    if not sets:
        return Finding("cuDNN sets", Verdict.WRONG, "none is there", _torch_again())
    return Finding("cuDNN sets", Verdict.WRONG, f"{len(sets)}: {'; '.join(places)}", _keep_one())


def _remedy(error: str) -> str:
    """By what the loader says: a library that is not there, or one that cannot be loaded."""
    culprit = error.split("Error: ")[-1].partition(":")[0].strip()
    if NOT_THERE in error:
        return _bring(Path(culprit).name)
    if Path(culprit).is_file():
        return f"{culprit} is no library that can be loaded, or not of the set beside it: take it away, and keep torch's own"
    return _torch_again()


def _bring(name: str) -> str:
    if any((folder / name).exists() for folder in torch_folders()):
        return f"torch brings it, out of the loader's sight: {export()}"
    if name == CUBLAS_12:
        return f"it comes with CUDA 12: build the image on {BASE_IMAGE}, or add the folder of a libcublas.so.12 to LD_LIBRARY_PATH"
    if name == NVRTC:
        return f"it comes with CUDA's devel image ({BASE_IMAGE}); {_link_nvrtc()}"
    return _torch_again()


def _link_nvrtc() -> str:
    """The name without a version is all that is missing: PyPI's wheel carries the library as libnvrtc.so.11.2."""
    carried = next((file for folder in torch_folders() for file in sorted(folder.glob("libnvrtc.so.*"))), None)
    if carried is None:
        return "elsewhere add the folder of CUDA's libnvrtc.so to LD_LIBRARY_PATH"
    return f"elsewhere `ln -s {carried.name} {carried.parent / NVRTC}` and {export(carried.parent)}"


def export(*further: Path) -> str:
    """The loader reads it when the process starts, so setting it from within would be too late."""
    own = [folder for folder in torch_folders() if any((folder / name).exists() for name in (*PARTS, CUBLAS_11))]
    folders = dict.fromkeys([*own, *further, *library_path()])
    return f"`export LD_LIBRARY_PATH={os.pathsep.join(str(folder) for folder in folders)}` before the process starts"


def _keep_one() -> str:
    own = next((folder for folder in torch_folders() if (folder / PARTS[0]).exists()), None)
    kept = f"keep torch's own, {own}" if own else "keep one that is whole"
    return f"{kept}, and take every other away: out of LD_LIBRARY_PATH, and uninstalled (libcudnn8, nvidia-cudnn-cu12)"


def _torch_again() -> str:
    return (
        "install torch again, whole: for an image, build it with GPU_STACK=cu118; in a checkout `rm .venv/spillway-lock && make setup`; "
        "then ask the doctor again for the path to export"
    )
