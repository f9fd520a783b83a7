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
from worker.model_files import resolve_alignment

log = logger("worker.aligners")
MOST_LOADED = 3  # a wav2vec2 large takes 1.3 GB in float32; the least recently used one leaves
PULL_AGAIN_S = 3600.0  # after one that failed

Pull = Callable[[str], None]


@dataclass(frozen=True)
class NamedAligner:
    name: str
    aligner: ForcedAligner


class Aligners:
    """Thread-safe: a language is loaded once, and whoever needs it meanwhile waits.

    `pull` brings a language's model into the folder. It runs beside the job that asked first, which takes its word times from
    Whisper's attention: no job waits for a download.
    """

    def __init__(self, model_dir: Path, device: str, pull: Pull | None) -> None:
        self._model_dir, self._device, self._pull = model_dir, device, pull
        self._loaded: OrderedDict[str, NamedAligner] = OrderedDict()
        self._asked: dict[str, float] = {}
        self._lock = threading.Lock()

    def get(self, language: str) -> NamedAligner | None:
        """None if no model of the language is there (yet), or the one that is there is damaged, which the log says."""
        try:
            with self._lock:
                if language in self._loaded or self._load(language):
                    self._loaded.move_to_end(language)
                    return self._loaded[language]
        except ModelMissing as error:
            log.error("alignment model unusable", language=language, reason=str(error))
            return None
        self._bring(language)
        return None

    def _load(self, language: str) -> bool:
        """Whether there was one. Its digest may be taken here, so once for each time it is loaded and not for each job."""
        files = resolve_alignment(language, self._model_dir)
        if files is None:
            return False
        folder = files.path.parent if files.bundle else files.path
        self._loaded[language] = NamedAligner(files.name, ForcedAligner.load(folder, language, self._device, bundle=files.bundle))
        if len(self._loaded) > MOST_LOADED:
            self._loaded.popitem(last=False)
        return True

    def _bring(self, language: str) -> None:
        with self._lock:
            asked = self._asked.get(language)
            if self._pull is None or (asked is not None and monotonic() - asked < PULL_AGAIN_S):
                return
            self._asked[language] = monotonic()
        threading.Thread(target=_pull_quietly, args=(language, self._pull), name=f"pull-{language}", daemon=True).start()


def _pull_quietly(language: str, pull: Pull) -> None:
    """Catches everything: proxies, indexes and hubs fail in many ways, and no job depends on this thread."""
    try:
        pull(language)
    except Exception as error:
        log.warning("alignment model not brought", language=language, reason=str(error))
