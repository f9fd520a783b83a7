"""The forced alignment models, brought and loaded when a language first needs one."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from core.errors import SpillwayError
from core.log import logger
from worker.engine.alignment import ForcedAligner
from worker.model_files import AlignmentFiles, resolve_alignment

log = logger("worker.aligners")
MOST_LOADED = 3  # a wav2vec2 large takes 1.3 GB in float32; the least recently used one leaves

Pull = Callable[[str], None]


class Aligners:
    """Thread-safe: a language is loaded once, and whoever needs it meanwhile waits.

    `pull` brings a language's model into the folder. It runs beside the job that asked first, which takes its word times from
    Whisper's attention: no job waits for a download.
    """

    def __init__(self, model_dir: Path, device: str, pull: Pull | None) -> None:
        self._model_dir, self._device, self._pull = model_dir, device, pull
        self._loaded: OrderedDict[str, ForcedAligner] = OrderedDict()
        self._asked: set[str] = set()
        self._lock = threading.Lock()

    def files(self, language: str) -> AlignmentFiles | None:
        """None if no model of the language is there (yet). Raises `ModelMissing` if one is there and broken."""
        files = resolve_alignment(language, self._model_dir)
        if files is None and self._pull:
            self._bring(language, self._pull)
        return files

    def get(self, files: AlignmentFiles, language: str) -> ForcedAligner:
        with self._lock:
            if language not in self._loaded:
                self._loaded[language] = _load(files, language, self._device)
            self._loaded.move_to_end(language)
            aligner = self._loaded[language]
            while len(self._loaded) > MOST_LOADED:
                self._loaded.popitem(last=False)
        return aligner

    def _bring(self, language: str, pull: Pull) -> None:
        with self._lock:
            if language in self._asked:
                return
            self._asked.add(language)
        threading.Thread(target=_pull_quietly, args=(language, pull), name=f"pull-{language}", daemon=True).start()


def _pull_quietly(language: str, pull: Pull) -> None:
    try:
        pull(language)
    except (SpillwayError, OSError) as error:
        log.warning("alignment model not brought", language=language, reason=str(error))


def _load(files: AlignmentFiles, language: str, device: str) -> ForcedAligner:
    folder = files.path.parent if files.bundle else files.path
    return ForcedAligner.load(folder, language, device, bundle=files.bundle)
