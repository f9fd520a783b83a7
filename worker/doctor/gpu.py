"""The doctor's lines about the GPU: driver, card, kernels, compute type and memory."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from core.errors import ModelMissing, OurError
from core.settings import Settings
from worker import model_catalog
from worker.doctor.findings import Finding, Verdict
from worker.doctor.kernels import CTRANSLATE2_ARCHS, Fit, dotted, driver_needed, fit, generation, version
from worker.doctor.nvml import START, Gpu, Process, Report, Unreadable, read_report
from worker.engine import budget
from worker.model_files import resolve_asr

DRIVER, CARD, KERNELS, CACHE, COMPUTE_TYPE, MEMORY = CHECKS = (
    "GPU driver", "GPU", "GPU kernels", "CUDA kernel cache", "compute type", "GPU memory",
)  # fmt: skip
FOREIGN_BYTES = 1_000_000_000  # that others must hold before it is worth a word: a desktop takes less, and the driver up to 2 %
FIRST_START_S = "10 to 16 s"  # to compile CTranslate2's kernels on three H100s, once; 0.6 s from the cache


def gpu_findings(
    settings: Settings, torch_archs: Sequence[str], environment: Mapping[str, str], *, read: Callable[[], Report] = read_report
) -> list[Finding]:
    """One per name in CHECKS. `torch_archs`: what torch was built for, `torch._C._cuda_getArchFlags().split()`."""
    if settings.device == "cpu":
        return _not_checked(CHECKS, "the worker runs on the CPU (SPILLWAY_DEVICE=cpu)")
    if settings.gpu_stack == "none":
        return _not_checked(CHECKS, "built without a GPU's libraries (SPILLWAY_GPU_STACK=none)")
    try:
        report = read()
    except Unreadable as error:
        return [Finding(DRIVER, Verdict.WRONG, error.found, error.remedy), *_not_checked(CHECKS[1:], "no driver answers")]
    card, gpu = _card(report, settings, environment)
    if gpu is None:
        return [_driver(report.driver, None), card, *_not_checked(CHECKS[2:], "no usable GPU")]
    known = [_driver(report.driver, gpu), card, _kernels(gpu, torch_archs)]
    if known[-1].verdict == Verdict.WRONG:
        return [*known, *_not_checked(CHECKS[3:], "no code runs on this GPU")]
    return [*known, _cache(gpu, torch_archs, environment), _compute_type(gpu, settings), _memory(gpu, settings)]


def _not_checked(checks: Sequence[str], why: str) -> list[Finding]:
    return [Finding(check, Verdict.NOT_CHECKED, why) for check in checks]


def _driver(installed: str, gpu: Gpu | None) -> Finding:
    needed = driver_needed(gpu.capability if gpu else (8, 6))
    if version(installed) >= needed:
        return Finding(DRIVER, Verdict.OK, f"{installed}; {dotted(needed)} or newer is needed")
    remedy = f"install NVIDIA driver {dotted(needed)} or newer on the host, best the newest that it offers, and restart it"
    return Finding(DRIVER, Verdict.WRONG, f"{installed} is too old for CUDA 12", remedy)


def _card(report: Report, settings: Settings, environment: Mapping[str, str]) -> tuple[Finding, Gpu | None]:
    """The GPU that SPILLWAY_DEVICE_INDEX means, if it can be used."""
    gpus = _visible(report.gpus, environment.get("CUDA_VISIBLE_DEVICES"))
    if not gpus:
        hidden = "; CUDA_VISIBLE_DEVICES hides what there is: unset it" if report.gpus else ""
        return Finding(CARD, Verdict.WRONG, f"the driver shows no GPU to this process{hidden}", START), None
    if settings.device_index >= len(gpus):
        places = "0" if len(gpus) == 1 else f"0 to {len(gpus) - 1}"
        found = f"SPILLWAY_DEVICE_INDEX={settings.device_index}, and the process sees {len(gpus)} GPU{'s' * (len(gpus) > 1)}"
        return Finding(CARD, Verdict.WRONG, found, f"set SPILLWAY_DEVICE_INDEX to {places}, or give the container that GPU"), None
    gpu = gpus[settings.device_index]
    if isinstance(gpu, Unreadable):
        return Finding(CARD, Verdict.WRONG, gpu.found, gpu.remedy), None
    if gpu.mig_instances == 0:
        return Finding(CARD, Verdict.WRONG, f"{gpu.name} is partitioned (MIG) and no instance is visible", MIG_REMEDY), None
    return _sound(gpu, gpus, settings, environment), gpu


MIG_REMEDY = (
    "give the container one instance by its UUID (`nvidia-smi -L` on the host lists them): NVIDIA_VISIBLE_DEVICES=MIG-…, "
    "or switch MIG off: `sudo nvidia-smi -mig 0`"
)


def _visible(gpus: Sequence[Gpu | Unreadable], wanted: str | None) -> list[Gpu | Unreadable]:
    """As CUDA reads CUDA_VISIBLE_DEVICES: numbers or the beginnings of UUIDs, up to the first that is none."""
    if wanted is None:
        return list(gpus)
    found: list[Gpu | Unreadable] = []
    for name in (part.strip() for part in wanted.split(",")):
        if name.startswith("MIG-"):
            return [gpu for gpu in gpus if isinstance(gpu, Gpu) and gpu.mig_instances] or list(gpus)
        named = [gpu for place, gpu in enumerate(gpus) if name and (name == str(place) or _uuid(gpu).startswith(name))]
        if len(named) != 1:
            break
        found += named
    return found


def _uuid(gpu: Gpu | Unreadable) -> str:
    return gpu.uuid if isinstance(gpu, Gpu) else ""


def _sound(gpu: Gpu, gpus: Sequence[Gpu | Unreadable], settings: Settings, environment: Mapping[str, str]) -> Finding:
    place = f", {settings.device_index + 1} of {len(gpus)}" if len(gpus) > 1 else ""
    found = f"{gpu.name} ({generation(gpu.capability)}){place}, {budget.in_gib(gpu.total_bytes)}"
    if gpu.memory_errors:
        remedy = "on the host run `sudo nvidia-smi --gpu-reset`, or restart it; a card that fails again is to be replaced"
        return Finding(CARD, Verdict.WARNING, f"{found}; {gpu.memory_errors} memory errors (ECC) that could not be corrected", remedy)
    if gpu.mig_instances and gpu.mig_instances > 1:
        return Finding(CARD, Verdict.WARNING, f"{found}; {gpu.mig_instances} MIG instances, of which CUDA takes the first", MIG_REMEDY)
    kinds = {one.name for one in gpus if isinstance(one, Gpu)}
    if len(kinds) > 1 and environment.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        remedy = "set CUDA_DEVICE_ORDER=PCI_BUS_ID, so that SPILLWAY_DEVICE_INDEX counts as nvidia-smi does"
        return Finding(CARD, Verdict.WARNING, f"{found}; the GPUs differ, and CUDA counts the fastest first", remedy)
    return Finding(CARD, Verdict.OK, found)


def _fits(gpu: Gpu, torch_archs: Sequence[str]) -> dict[str, Fit]:
    return {"torch": fit(gpu.capability, torch_archs), "CTranslate2": fit(gpu.capability, CTRANSLATE2_ARCHS)}


def _kernels(gpu: Gpu, torch_archs: Sequence[str]) -> Finding:
    if not torch_archs:
        return Finding(KERNELS, Verdict.WRONG, "this torch was built without CUDA", "install torch 2.0.0 from the cu118 index")
    fits = _fits(gpu, torch_archs)
    lacking = " and ".join(library for library, how in fits.items() if how == Fit.NONE)
    if lacking:
        found = (
            f"{lacking} {'have' if ' and ' in lacking else 'has'} no code for {gpu.name} ({generation(gpu.capability)}), nor any to compile"
        )
        return Finding(KERNELS, Verdict.WRONG, found, _other_gpu(gpu, torch_archs))
    return Finding(KERNELS, Verdict.OK, "; ".join(f"{library}: {how}" for library, how in fits.items()))


def _other_gpu(gpu: Gpu, torch_archs: Sequence[str]) -> str:
    remedy = "no setting mends it: take a GPU from Pascal to Hopper (compute capability 6.0 to 9.0), or run with SPILLWAY_DEVICE=cpu"
    if gpu.capability == (9, 0) and "sm_86" in torch_archs:  # PyPI's torch 2.0.0 is built for CUDA 11.7
        return f"install torch 2.0.0 from the cu118 index, which has code for Hopper; {remedy}"
    return remedy


def _cache(gpu: Gpu, torch_archs: Sequence[str], environment: Mapping[str, str]) -> Finding:
    if Fit.COMPILED not in _fits(gpu, torch_archs).values():
        return Finding(CACHE, Verdict.OK, "not needed: nothing is compiled on this GPU")
    folder = environment.get("CUDA_CACHE_PATH")
    cost = f"each start compiles the kernels again, {FIRST_START_S}"
    remedy = "set CUDA_CACHE_PATH to a folder on a volume that the worker may write to, as docker-compose.yml does"
    if not folder:
        return Finding(CACHE, Verdict.WARNING, f"CUDA_CACHE_PATH is not set: {cost}", remedy)
    if environment.get("CUDA_CACHE_DISABLE") == "1":
        return Finding(CACHE, Verdict.WARNING, f"CUDA_CACHE_DISABLE=1: {cost}", "unset CUDA_CACHE_DISABLE")
    if not _is_writable(Path(folder)):
        return Finding(CACHE, Verdict.WARNING, f"CUDA_CACHE_PATH={folder} may not be written to: {cost}", remedy)
    return Finding(CACHE, Verdict.OK, f"{folder}; the first start compiles the kernels, {FIRST_START_S}")


def _is_writable(folder: Path) -> bool:
    """CUDA makes the folder itself where it is missing."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _compute_type(gpu: Gpu, settings: Settings) -> Finding:
    wished = settings.compute_type
    if not budget.supports(gpu.capability, wished):
        best = budget.candidates(gpu.capability, "auto")[0]
        found = f"SPILLWAY_COMPUTE_TYPE={wished}, which {gpu.name} ({generation(gpu.capability)}) cannot do"
        return Finding(COMPUTE_TYPE, Verdict.WRONG, found, f"set SPILLWAY_COMPUTE_TYPE=auto, which takes {best} here")
    kinds = " or, where memory is short, ".join(budget.candidates(gpu.capability, wished))
    return Finding(COMPUTE_TYPE, Verdict.OK, f"{wished}: {kinds}" if wished == "auto" else wished)


def _memory(gpu: Gpu, settings: Settings) -> Finding:
    free = f"{budget.in_gib(gpu.free_bytes)} of {budget.in_gib(gpu.total_bytes)} free"
    model_bytes = _model_bytes(settings)
    if model_bytes is None:
        return Finding(MEMORY, Verdict.NOT_CHECKED, f"{free}; how large {settings.asr_model} is shows when its files are there")
    if not budget.supports(gpu.capability, settings.compute_type):
        return Finding(MEMORY, Verdict.NOT_CHECKED, f"{free}; the compute type is wrong")
    wish = budget.Wish.of(settings, model_bytes)
    others = _others(gpu)
    try:
        plan = budget.on_gpu(budget.Card(gpu.free_bytes, gpu.capability), wish)
    except OurError as error:
        found, remedy = str(error).split(": ", 1)
        return Finding(MEMORY, Verdict.WRONG, "; ".join([found, *others]), remedy)
    found = f"{free}; {settings.asr_model}: {plan}"
    alone = budget.on_gpu(budget.Card(gpu.total_bytes, gpu.capability), wish)
    if others and (plan.compute_type, plan.asr_batch) != (alone.compute_type, alone.asr_batch):
        remedy = "end what else uses the GPU for larger batches, or leave it: it works"
        return Finding(MEMORY, Verdict.WARNING, "; ".join([found, *others]), remedy)
    return Finding(MEMORY, Verdict.OK, found)


def _others(gpu: Gpu) -> list[str]:
    """Who else holds the memory: nobody, or one phrase."""
    held_bytes = gpu.total_bytes - gpu.free_bytes
    if held_bytes < max(FOREIGN_BYTES, gpu.total_bytes // 50):
        return []
    unnamed = f"{budget.in_gib(held_bytes)} of processes that only the host can name (`nvidia-smi`)"
    return [f"also on the GPU: {', '.join(_named(process) for process in gpu.others) or unnamed}"]


def _named(process: Process) -> str:
    return f"{process.name} (pid {process.pid})" + ("" if process.used_bytes is None else f" {budget.in_gib(process.used_bytes)}")


def _model_bytes(settings: Settings) -> int | None:
    """Of the file, or what it will be once it is there."""
    try:
        return (resolve_asr(settings.asr_model, settings.model_dir) / "model.bin").stat().st_size
    except ModelMissing:
        return next(_known_bytes(settings.asr_model), None)


def _known_bytes(name: str) -> Iterator[int]:
    try:
        size = model_catalog.find(name).name.removeprefix("faster-whisper-").removesuffix(".en")
    except ModelMissing:
        return
    yield from (shape.bytes for shape in budget.SHAPES if shape.name == size)
