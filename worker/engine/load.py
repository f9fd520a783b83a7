"""Loads the engine that the settings name, from files alone: nothing here touches the network."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from core.errors import OurError
from core.log import logger
from core.settings import Settings
from worker.engine import budget
from worker.engine.aligners import Aligners
from worker.engine.asr import SpeechRecognizer
from worker.engine.diarization import Diarizer
from worker.engine.engine import Engine, Parts
from worker.engine.vad import VoiceActivityDetector
from worker.model_files import resolve_asr, resolve_diarization
from worker.model_pull import pull_alignment

log = logger("worker.load")


def load_engine(settings: Settings) -> Engine:
    """Raises `ModelMissing`, and `OurError` when there is no GPU that can be used or the models do not fit its memory."""
    device = _device(settings)
    threads = _threads(settings)
    torch.set_num_threads(threads.torch)
    asr_folder = resolve_asr(settings.asr_model, settings.model_dir)
    diarization = resolve_diarization(settings.diarization_model, settings.model_dir)
    plan = _budget(settings, asr_folder)
    parts = Parts(
        vad=VoiceActivityDetector(device, onset=settings.vad_onset, offset=settings.vad_offset, batch_size=plan.segmentation_batch),
        recognizer=SpeechRecognizer(
            asr_folder,
            device=device,
            compute_type=plan.compute_type,
            batch_size=plan.asr_batch,
            cpu_threads=threads.whisper,
            release_memory=torch.cuda.empty_cache,
        ),
        diarizer=Diarizer.load(
            diarization.segmentation, diarization.embedding, diarization.kind, device, batch_size=plan.segmentation_batch
        ),
        aligners=Aligners(
            settings.model_dir, device, _pull(settings) if settings.pull_on_first_use else None, most_bytes=plan.alignment_bytes
        ),
        asr_name=asr_folder.name,
        segmentation_name=diarization.segmentation_name,
        embedding_name=diarization.embedding_name,
        device=_device_name(settings),
        beam_size=settings.beam_size,
    )
    return Engine(parts, jobs=settings.max_jobs_in_flight)


@dataclass(frozen=True)
class Threads:
    torch: int
    whisper: int


def _threads(settings: Settings) -> Threads:
    """Half the cores for each of what runs side by side. OpenMP's threads spin while they wait, so that more of them than cores
    are slower: on two cores samples/dialogue.flac (base, int8) took 11.6 s with one and one and 19.7 s with two and two, by
    `make bench ARGS='--repeat 1'` and `make bench ARGS='--repeat 1 --cpu-threads 4'`; on a busy machine up to 36 s.
    """
    cores = settings.cpu_threads or os.cpu_count() or 1
    torch_threads = max(1, cores // 2)
    return Threads(torch_threads, max(1, cores - torch_threads))


def _budget(settings: Settings, asr_folder: Path) -> budget.Budget:
    """To be asked before anything of ours lies in the GPU's memory."""
    model = asr_folder / "model.bin"
    wish = budget.Wish.of(settings, model.stat().st_size if model.is_file() else 0)  # loading says that it is missing
    if settings.device == "cpu":
        plan, memory = budget.on_cpu(wish), {}
    else:
        free_bytes, total_bytes = torch.cuda.mem_get_info(settings.device_index)
        plan = budget.on_gpu(budget.Card(free_bytes, torch.cuda.get_device_capability(settings.device_index)), wish)
        memory = {"free_bytes": free_bytes, "total_bytes": total_bytes}
    log.info("memory budget", device=_device_name(settings), model=asr_folder.name, **memory, **asdict(plan))
    return plan


def _pull(settings: Settings) -> Callable[[str], None]:
    return partial(pull_alignment, model_dir=settings.model_dir, hf_token=settings.hf_token)


def _device(settings: Settings) -> str:
    if settings.device == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise OurError(
            "there is no usable GPU: check `nvidia-smi` and the container's GPU reservation, or set SPILLWAY_DEVICE=cpu to run without one"
        )
    return f"cuda:{settings.device_index}"


def _device_name(settings: Settings) -> str:
    return "cpu" if settings.device == "cpu" else torch.cuda.get_device_name(settings.device_index)
