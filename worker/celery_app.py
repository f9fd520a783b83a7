"""The GPU worker's composition root: `python -m worker.celery_app`. One process per GPU.

The ML stack is imported where the engine is built and not here: it takes seconds to minutes, and what the slot's last process held
is handed back before (worker/serving.py), so that another worker takes it meanwhile.
"""

import sys
from time import monotonic, sleep

from core import log
from core.errors import ModelMissing, SpillwayError
from core.settings import Settings
from core.worker_reports import WorkerState
from worker.attempt import Recordings
from worker.crew import UNFIT
from worker.doctor.fitness import check_fitness
from worker.first_models import bring_models
from worker.patience import patiently
from worker.presence import Presence
from worker.serving import Runs, serve

logger = log.logger("worker")
UNFIT_PAUSE_S = 60.0  # that a worker which is unfit stays to say why; then worker/crew.py has a fresh process look again


def fit_engine(settings: Settings, media: Recordings, presence: Presence) -> Runs:
    """An unfit worker takes no jobs: it says why, in its report and in the log, for a while, and ends."""
    patiently(presence.beat)
    try:
        ffmpeg = media.ffmpeg.version()
        check_fitness(settings)
        if settings.pull_at_start:
            bring_models(settings, presence)
        presence.prepares(WorkerState.LOADING, "loading the models")
        begun = monotonic()
        engine = _loaded(settings)
    except (SpillwayError, RuntimeError, ValueError, OSError) as error:  # CTranslate2 and torch raise the last three
        presence.is_unfit(str(error), WorkerState.MODELS_MISSING if isinstance(error, ModelMissing) else WorkerState.UNFIT)
        sleep(UNFIT_PAUSE_S)
        sys.exit(UNFIT)
    logger.info("models loaded", seconds=round(monotonic() - begun, 1), device=settings.device, asr_model=settings.asr_model, ffmpeg=ffmpeg)
    return engine


def _loaded(settings: Settings) -> Runs:
    from worker.engine.load import load_engine

    return load_engine(settings)


if __name__ == "__main__":
    serve(fit_engine)
