"""The models that the settings name, brought before the engine loads; the log and the worker's report tell how far they are."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic, sleep

from core.errors import ModelMissing, ModelSourceAway, SpillwayError
from core.log import logger
from core.settings import Settings
from core.worker_reports import Download, WorkerState
from worker.model_catalog import ALIGNMENT, Model
from worker.model_download import Report, Transfer
from worker.model_files import profile_models
from worker.model_lock import check
from worker.model_pull import pull, supply_for
from worker.model_sources import Supply
from worker.presence import Presence

log = logger("worker.models")
LOG_EVERY_S = 10.0
FIRST_PAUSE_S = 2.0  # while the source is away; doubled up to the longest
LONGEST_PAUSE_S = 60.0  # also after a refusal, which somebody has to mend
Source = Callable[[Path, str | None, Report], AbstractContextManager[Supply]]


def bring_models(settings: Settings, presence: Presence, source: Source = supply_for, wait: Callable[[float], None] = sleep) -> None:
    """Returns once every model is there that a job cannot do without, however long that takes.

    An alignment model that does not come is no reason to wait: word times are then Whisper's own, and the first job of its
    language asks for it again. Raises `ModelMissing` for a name that means no model.
    """
    named = profile_models("full", settings, settings.align_languages, _say)
    essential = [model for model in named if model not in ALIGNMENT.values()]
    arrival = Arrival(settings, presence, source, wait)
    arrival.bring([*essential, *(model for model in named if model not in essential)])
    while arrival.missing(essential):
        arrival.pause()
        if arrival.bring(essential):
            arrival.bring(named)
    for model in arrival.missing(named):
        log.warning("alignment model did not come: word times are Whisper's own until a job's first use brings it", model=model.name)


class Arrival:
    """Tries to bring models, and tells how far they are: bytes over all files together."""

    def __init__(self, settings: Settings, presence: Presence, source: Source, wait: Callable[[float], None]) -> None:
        self._settings, self._presence, self._source, self._wait = settings, presence, source, wait
        self._done: dict[str, int] = {}
        self._total_bytes = 0
        self._at: Download | None = None
        self._logged = (0, 0.0)  # the tenth, and when
        self._pause_s = FIRST_PAUSE_S

    def missing(self, models: Sequence[Model]) -> list[Model]:
        return [model for model in models if not self._is_there(model)]

    def bring(self, models: Sequence[Model]) -> bool:
        """Whether they are all there now; if not, the log and the report say why."""
        missing = self.missing(models)
        if not missing:
            return True
        self._done = {}
        self._presence.prepares(WorkerState.DOWNLOADING, "looking for the models", self._at)
        try:
            with self._source(self._settings.model_dir, self._settings.hf_token, self._report) as supply:
                pull(missing, self._settings.model_dir, supply, self._hear, expect=self._expect)
        except (SpillwayError, OSError) as error:
            self._fail(error)
            return False
        return True

    def pause(self) -> None:
        self._wait(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _is_there(self, model: Model) -> bool:
        """As the engine will judge it."""
        try:
            check(model, self._settings.model_dir)
        except ModelMissing:
            return False
        return True

    def _expect(self, transfers: Sequence[Transfer]) -> None:
        self._done = {transfer.label: transfer.there_bytes for transfer in transfers}
        self._total_bytes = sum(transfer.bytes for transfer in transfers)
        self._logged = (0, monotonic())
        log.info("models: downloading", files=len(transfers), done_bytes=sum(self._done.values()), total_bytes=self._total_bytes)

    def _report(self, label: str, done: int, _: int | None) -> None:
        if done > self._done.get(label, 0):
            self._pause_s = FIRST_PAUSE_S
        self._done[label] = done
        self._at = Download(sum(self._done.values()), self._total_bytes, label)
        said = f"models: {self._at.done_bytes / 1e9:.1f} of {self._at.total_bytes / 1e9:.1f} GB, {label}"
        self._presence.prepares(WorkerState.DOWNLOADING, said, self._at)
        tenth = 10 * self._at.done_bytes // max(self._total_bytes, 1)
        if tenth > self._logged[0] or monotonic() - self._logged[1] >= LOG_EVERY_S:
            self._logged = (tenth, monotonic())
            log.info(said, done_bytes=self._at.done_bytes, total_bytes=self._at.total_bytes)

    def _hear(self, line: str) -> None:
        _say(line)
        if not self._done:  # before the plan only another pull can be the matter
            self._presence.prepares(WorkerState.DOWNLOADING, line)

    def _fail(self, error: Exception) -> None:
        is_away = isinstance(error, ModelSourceAway)
        self._pause_s = self._pause_s if is_away else LONGEST_PAUSE_S
        log.warning("models did not come", reason=str(error), next_try_s=self._pause_s)
        state = WorkerState.DOWNLOADING if is_away else WorkerState.MODELS_MISSING
        self._presence.prepares(state, f"{error}; next try in {self._pause_s:.0f} s", self._at if is_away else None)


def _say(line: str) -> None:
    log.info("pull", said=line)
