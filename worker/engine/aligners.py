"""The forced alignment models, brought and loaded when a language first needs one."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from core.errors import ModelMissing
from core.log import logger
from worker.engine.alignment import ForcedAligner
from worker.engine.batching import is_out_of_memory
from worker.engine.budget import CPU_ALIGNMENT_BYTES
from worker.model_files import AlignmentFiles, resolve_alignment

log = logger("worker.aligners")
PULL_AGAIN_S = 3600.0  # after one that failed

Pull = Callable[[str], None]


@dataclass(frozen=True)
class NamedAligner:
    name: str
    aligner: ForcedAligner


class Aligners:
    """Thread-safe: a language is loaded once, and whoever needs it meanwhile waits.

    The weights stay below `most_bytes`, the least recently used model leaving first; the one that is needed loads whatever its size.
    `pull` brings a language's model into the folder. It runs beside the job that asked first, which takes its word times from
    Whisper's attention: no job waits for a download.
    """

    def __init__(self, model_dir: Path, device: str, pull: Pull | None, *, most_bytes: int = CPU_ALIGNMENT_BYTES) -> None:
        self._model_dir, self._device, self._pull, self._most_bytes = model_dir, device, pull, most_bytes
        self._loaded: OrderedDict[str, NamedAligner] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._asked: dict[str, float] = {}
        self._lock = threading.Lock()

    def get(self, language: str) -> NamedAligner | None:
        """None if no model of the language is there (yet), or the one that is there is damaged or too large for the device's
        memory, which the log says."""
        try:
            files = resolve_alignment(language, self._model_dir)
            if files:
                return self._load(files, language)
        except ModelMissing as error:
            log.error("alignment model unusable", language=language, reason=str(error))
            return None
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            log.error("alignment model does not fit the device's memory", language=language, reason=str(error))
            return None
        self._bring(language)
        return None

    def _load(self, files: AlignmentFiles, language: str) -> NamedAligner:
        with self._lock:
            if language not in self._loaded:
                size = _weight_bytes(files)
                self._make_room(size)
                folder = files.path.parent if files.bundle else files.path
                aligner = ForcedAligner.load(folder, language, self._device, bundle=files.bundle)
                self._loaded[language] = NamedAligner(files.name, aligner)
                self._sizes[language] = size
            self._loaded.move_to_end(language)
            return self._loaded[language]

    def _make_room(self, size: int) -> None:
        while self._loaded and sum(self._sizes[language] for language in self._loaded) + size > self._most_bytes:
            self._loaded.popitem(last=False)

    def _bring(self, language: str) -> None:
        with self._lock:
            asked = self._asked.get(language)
            if self._pull is None or (asked is not None and monotonic() - asked < PULL_AGAIN_S):
                return
            self._asked[language] = monotonic()
        threading.Thread(target=_pull_quietly, args=(language, self._pull), name=f"pull-{language}", daemon=True).start()


def _weight_bytes(files: AlignmentFiles) -> int:
    """Of the weights on disk, float32 as they are in memory; a folder may hold them in two formats."""
    weights = [files.path] if files.path.is_file() else [*files.path.glob("*.safetensors"), *files.path.glob("*.bin")]
    return max((path.stat().st_size for path in weights), default=0)


def _pull_quietly(language: str, pull: Pull) -> None:
    """Catches everything: proxies, indexes and hubs fail in many ways, and no job depends on this thread."""
    try:
        pull(language)
    except Exception as error:
        log.warning("alignment model not brought", language=language, reason=str(error))
