"""The GPU worker's composition root: `python -m worker.celery_app`. One process per GPU, one thread per job in flight."""

import os
import socket
import sys
import threading
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

from celery.signals import worker_ready

from core import log, wakeups
from core.errors import ModelMissing, SettingsError, SpillwayError
from core.job_store import JobStore, Runner, WorkerReport, WorkerState
from core.media import Ffmpeg
from core.redis_steps import connect
from core.settings import Settings, variable
from core.storage import open_file_store
from worker.doctor.fitness import check_fitness
from worker.engine.load import load_engine
from worker.first_models import bring_models
from worker.leases import Leases, Rhythm
from worker.patience import patiently
from worker.presence import Presence
from worker.runner import JobRunner, Limits, Recordings
from worker.slots import Slot, take_slot
from worker.stopper import Stopper
from worker.work import Transcribe

logger = log.logger("worker")
UNFIT_PAUSE_S = 60.0  # that a worker which is unfit stays to say why; then a fresh process looks again
BROKEN = 70  # exit status: an internal error (sysexits.h); the supervisor starts a new process


def main() -> None:
    try:
        settings = Settings.from_environment()
    except SettingsError as error:
        sys.exit(f"spillway worker: {error}")
    log.configure("worker", level=settings.log_level, form=settings.log_format)
    threading.excepthook = _end_process
    slot = _slot(settings)
    me = Runner(slot.name, uuid4().hex)
    store = JobStore(connect(settings.redis_url))
    _take_back(store, me, settings)
    presence = Presence(store, _about(settings, me), heartbeat_s=settings.heartbeat_s)
    leases = Leases(store, me, Rhythm(lease_s=settings.lease_s, heartbeat_s=settings.heartbeat_s), presence.keep_up)
    leases.start()
    media = Recordings(open_file_store(settings), Ffmpeg(settings.ffmpeg))
    transcribe = _fit(settings, media, presence)
    limits = Limits(settings.lease_s, settings.max_audio_in_flight_s, settings.max_failures)

    def give_up(reason: str) -> None:
        presence.is_unfit(reason)
        stopper.stop(BROKEN)

    runner = JobRunner(transcribe, leases, media=media, store=store, limits=limits, give_up=give_up)
    stopper = Stopper(runner, leases, settings.stop_grace_s)
    presence.is_fit()
    _consume(settings, me.slot, runner.work, stopper)


def _end_process(failed: threading.ExceptHookArgs) -> None:
    """A heartbeat or a batcher that is no more would leave jobs hanging: a new process takes them back at once."""
    if issubclass(failed.exc_type, SystemExit):
        return
    name = failed.thread.name if failed.thread else "?"
    logger.critical("thread died", thread=name, exc_info=failed.exc_value)
    os._exit(BROKEN)


def _slot(settings: Settings) -> Slot:
    wanted = settings.worker_slot or f"{socket.gethostname()}-{settings.device}-{settings.device_index}"
    try:
        slot = take_slot(wanted, settings.file_store_dir)
    except OSError as error:
        sys.exit(f"spillway worker: {settings.file_store_dir} cannot be written ({error.strerror}): see {variable('file_store_dir')}")
    if slot.name != wanted:
        logger.warning("another worker has this slot", wanted=wanted, taken=slot.name)
    return slot


def _take_back(store: JobStore, me: Runner, settings: Settings) -> None:
    for job_id, state in patiently(lambda: store.reclaim_slot(me, max_losses=settings.max_losses)).items():
        logger.warning("taken back from this slot's last process", job_id=job_id, now=state)


def _about(settings: Settings, me: Runner) -> WorkerReport:
    return WorkerReport(me.slot, False, "starting", settings.device, settings.asr_model, host=socket.gethostname(), pid=os.getpid())


def _fit(settings: Settings, media: Recordings, presence: Presence) -> Transcribe:
    """An unfit worker takes no jobs: it says why, in its report and in the log, for a while, and ends."""
    patiently(presence.beat)
    try:
        ffmpeg = media.ffmpeg.version()
        check_fitness(settings)
        if settings.pull_at_start:
            bring_models(settings, presence)
        presence.prepares(WorkerState.LOADING, "loading the models")
        begun = monotonic()
        engine = load_engine(settings)
    except (SpillwayError, RuntimeError, ValueError, OSError) as error:  # CTranslate2 and torch raise the last three
        presence.is_unfit(str(error), WorkerState.MODELS_MISSING if isinstance(error, ModelMissing) else WorkerState.UNFIT)
        sleep(UNFIT_PAUSE_S)
        sys.exit(1)
    logger.info("models loaded", seconds=round(monotonic() - begun, 1), device=settings.device, asr_model=settings.asr_model, ffmpeg=ffmpeg)
    return engine.transcribe


def _consume(settings: Settings, slot: str, work: Callable[[], int], stopper: Stopper) -> None:
    app = wakeups.celery_app(settings.redis_url)

    @app.task(name=wakeups.TASK)
    def wake() -> None:
        work()

    worker_ready.connect(stopper.install, weak=False)  # after Celery has installed handlers of its own
    options: dict[str, Any] = {"without_gossip": True, "without_mingle": True, "quiet": True, "loglevel": "WARNING"}
    concurrency = settings.max_jobs_in_flight
    app.Worker(pool="threads", concurrency=concurrency, queues=[wakeups.QUEUE], hostname=f"{slot}@spillway", **options).start()


if __name__ == "__main__":
    main()
