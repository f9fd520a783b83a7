"""What a transcript depends on besides its recording, in two digests: the locked packages, and the models that the settings name."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from core.burst import Stack
from core.settings import Settings
from worker import model_catalog as catalog
from worker.model_catalog import Model
from worker.model_files import own_folder, takes_pyannote
from worker.model_lock import expected_files, read_lock

REQUIREMENTS = Path(__file__).parents[1] / "requirements"  # beside the packages, in a checkout and in the image
LOCKS = ("worker.txt", "torch.txt")


def stack_of(settings: Settings) -> Stack:
    """As the files are recorded; the engine holds them to it when it loads them. Raises `ModelMissing`."""
    return Stack(lock_sha256=_digest(_locks()), models_sha256=_digest(_models(settings)))


def _locks() -> Iterable[str]:
    return (line for name in LOCKS for line in (REQUIREMENTS / name).read_text().splitlines() if not line.lstrip().startswith("#"))


def _models(settings: Settings) -> Iterable[str]:
    """Without those of alignment, which come and go: a transcript names the one that it was made with."""
    model_dir = settings.model_dir
    diarization = catalog.PYANNOTE_DIARIZATION if takes_pyannote(settings.diarization_model, model_dir) else catalog.UNGATED_DIARIZATION
    for model in diarization:
        yield from _pins(model, model_dir)
    if (folder := own_folder(settings.asr_model)) is None:
        yield from _pins(catalog.find(settings.asr_model), model_dir)
    elif record := read_lock(model_dir).get(str(folder)):
        yield from (f"own {name} {pin.sha256}" for name, pin in sorted(record.files.items()))


def _pins(model: Model, model_dir: Path) -> Iterable[str]:
    return (f"{model.name} {name} {pin.sha256 if pin else '?'}" for name, pin in sorted(expected_files(model, model_dir).items()))


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
