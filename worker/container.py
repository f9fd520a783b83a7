"""What a container on Modal runs: the composition root that `modal_deploy.py` calls, and a test in a process of its own.

Nothing here raises: an exception crosses to the dispatcher as a guess (a `TimeoutError` looks like "still running"), and a container
that breaks at its start is started again and again.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache
from time import monotonic, time
from typing import Any

from core.burst import Bundle, Container, Reply, read_bundle
from core.errors import ModelMissing, OurError, SpillwayError
from core.file_store import FileStore
from core.job import JobFailure
from core.log import logger
from core.media import Ffmpeg
from core.settings import Settings
from core.storage import open_file_store
from worker.attempt import Recordings
from worker.cuda_start import cuda_fault
from worker.doctor.fitness import check_fitness
from worker.doctor.occasion import Occasion
from worker.engine.load import load_engine
from worker.exchange import BucketExchange, CallExchange, Exchange
from worker.model_files import profile_models
from worker.model_pull import pull, supply_for
from worker.remote import BundleRunner
from worker.stack import stack_of

log = logger("worker.container")
FILL = "docker compose run --rm dispatcher python -m dispatcher.burst setup"


ReadSettings = Callable[[], Settings]


class BurstWorker:
    """Loads the engine once; why it could not is every bundle's answer."""

    def __init__(self, read_settings: ReadSettings, begun: float) -> None:
        """`begun`: when this process did, by the monotonic clock."""
        self._bundles = 0
        self._refusal: JobFailure | None = None
        self.is_host_bad = False  # no CUDA: another host may do, and the call need not know
        self._runner: BundleRunner | None = None
        try:
            self._load(read_settings(), begun)
        except Exception as error:
            self._refusal = _refusal(error)
            log.exception("engine not loaded")

    @property
    def is_fit(self) -> bool:
        """False when this process should take nothing more."""
        return self._runner is not None and self._runner.is_fit

    def run(self, bundle: Any, recordings: Mapping[str, bytes], call_id: str) -> dict[str, Any]:
        """The reply to a bundle, in JSON's own types. `call_id` is the same when the call is run again."""
        asked = read_bundle(bundle)
        if isinstance(asked, Reply):
            return asked.plain()
        if self._runner is None:
            return Reply(refusal=self._refusal).plain()
        try:
            return self._run(self._runner, asked, self._exchange(asked, recordings, call_id)).plain()
        except Exception as error:
            log.exception("bundle not run")
            return Reply(refusal=_refusal(error)).plain()

    def _load(self, settings: Settings, begun: float) -> None:
        self._settings = settings
        if settings.device == "cuda" and (fault := cuda_fault()):
            self.is_host_bad = True
            raise OurError(fault)
        check_fitness(settings, Occasion.BURST)
        engine, stack = load_engine(settings), stack_of(settings)
        self._runner = BundleRunner(engine.transcribe, jobs_at_once=settings.max_jobs_in_flight)
        self._about = Container(device=engine.device, stack=stack, cold_start_s=round(monotonic() - begun, 3), bundles_before=0)
        self._open_files = lru_cache(maxsize=4)(self._opened)
        log.info("engine loaded", device=engine.device, seconds=self._about.cold_start_s)

    def _run(self, runner: BundleRunner, bundle: Bundle, exchange: Exchange) -> Reply:
        started_at, begun = time(), monotonic()
        receipts = runner.run(bundle.jobs, exchange, deadline_s=bundle.deadline_s)
        about = self._about.model_copy(update={"bundles_before": self._bundles})
        self._bundles += 1
        return Reply(receipts=receipts, container=about, started_at=started_at, seconds=round(monotonic() - begun, 3))

    def _exchange(self, bundle: Bundle, recordings: Mapping[str, bytes], call_id: str) -> Exchange:
        ffmpeg = Ffmpeg(self._settings.ffmpeg)
        if bundle.file_store is None:
            return CallExchange(recordings, ffmpeg)
        return BucketExchange(call_id, Recordings(self._open_files(bundle.file_store), ffmpeg))

    def _opened(self, address: str) -> FileStore:
        return open_file_store(self._settings.model_copy(update={"file_store": address}))


def fill_models(read_settings: ReadSettings) -> dict[str, Any]:
    """Brings the models that the settings name into the model folder; `error` is None when they are all there."""
    said: list[str] = []

    def say(line: str) -> None:
        log.info("pull", said=line)
        said.append(line)

    try:
        settings = read_settings()
        settings.model_dir.mkdir(parents=True, exist_ok=True)
        models = profile_models("full", settings, settings.align_languages, say)
        with supply_for(settings.model_dir, settings.hf_token, lambda *_: None) as supply:
            pull(models, settings.model_dir, supply, say)
    except Exception as error:
        log.exception("models not brought")
        return {"said": said, "error": _told(error)}
    return {"said": said, "error": None}


def _refusal(error: Exception) -> JobFailure:
    if isinstance(error, ModelMissing):
        return JobFailure(code=error.code, message=f"the Volume of models is not filled ({error}): run `{FILL}`")
    code = error.code if isinstance(error, SpillwayError) else OurError.code
    return JobFailure(code=code, message=f"the container on Modal cannot work: {_told(error)}")


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__
