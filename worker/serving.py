"""A worker process around an engine: one thread per job in flight, one engine for all of them. Knows nothing of the ML stack."""

import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol
from uuid import uuid4

from celery.signals import worker_ready

from core import log, wakeups
from core.crash_points import passed
from core.figures import Figures, WorkerFigures
from core.job_store import JobStore, Runner
from core.media import Ffmpeg
from core.process import begin
from core.redis_steps import connect
from core.settings import Settings, variable
from core.storage import open_file_store
from core.transcript import Transcript
from core.worker_reports import WorkerReport
from worker.attempt import Recordings
from worker.consumer import WakeUpConsumer
from worker.hearing import Hearing
from worker.leases import Leases, Rhythm
from worker.patience import patiently
from worker.presence import Presence
from worker.reporter import Reporter
from worker.runner import JobRunner, Limits
from worker.slots import Slot, take_slot, wanted_slot
from worker.stack import stack_of
from worker.stopper import Stopper
from worker.watchdog import Bounds, Watchdog
from worker.work import Work

logger = log.logger("worker")
BROKEN = 70  # exit status: an internal error (sysexits.h); the supervisor starts a new process


class Runs(Protocol):
    """What an engine must be able to do."""

    def transcribe(self, work: Work, /) -> Transcript: ...

    def figures(self) -> WorkerFigures: ...


Prepare = Callable[[Settings, Recordings, Presence], Runs]  # brings up the engine, telling how it gets on; ends the process if it cannot


def serve(prepare: Prepare) -> None:
    settings = begin("worker")
    threading.excepthook = _end_process
    slot = _slot(settings)
    me = Runner(slot.name, uuid4().hex)
    redis = connect(settings.redis_url)
    store = JobStore(redis)
    _take_back(store, me, settings)
    presence = Presence(store, _about(settings, me, store), heartbeat_s=settings.heartbeat_s)
    leases = Leases(store, me, Rhythm(lease_s=settings.lease_s, heartbeat_s=settings.heartbeat_s), presence.keep_up)
    leases.start()
    media = Recordings(open_file_store(settings), Ffmpeg(settings.ffmpeg))
    engine = prepare(settings, media, presence)
    Reporter(Figures(connect(settings.redis_url)), me, engine.figures, period_s=settings.heartbeat_s).start()
    limits = Limits(settings.lease_s, settings.max_audio_in_flight_s, settings.max_failures)

    def give_up(reason: str) -> None:
        presence.is_unfit(reason)
        stopper.stop(BROKEN)

    runner = JobRunner(engine.transcribe, leases, media=media, store=store, limits=limits, give_up=give_up)
    stopper = Stopper(runner, leases, settings.stop_grace_s)
    Watchdog(leases, runner, Bounds.of(settings), end=lambda: os._exit(BROKEN)).start()
    presence.is_fit(stack_of(settings))
    hearing = Hearing(runner.tries, lambda: store.backlog().queued_jobs > 0 and wakeups.waiting(redis) > 0, give_up)
    hearing.start(period_s=settings.sweep_period_s)
    _consume(settings, me.slot, runner.work, stopper)


def _end_process(failed: threading.ExceptHookArgs) -> None:
    """A heartbeat or a batcher that is no more would leave jobs hanging: a new process takes them back at once."""
    if issubclass(failed.exc_type, SystemExit):
        return
    name = failed.thread.name if failed.thread else "?"
    logger.critical("thread died", thread=name, exc_info=failed.exc_value)
    os._exit(BROKEN)


def _slot(settings: Settings) -> Slot:
    wanted = wanted_slot(settings)
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


def _about(settings: Settings, me: Runner, store: JobStore) -> WorkerReport:
    """Why this slot's last process was unfit stays to be read while the next one looks again."""
    last = next((report.reason for report in patiently(store.workers) if report.slot == me.slot and report.state.is_broken), None)
    reason = "starting" if last is None else f"starting again; the last time it was unfit: {last}"
    return WorkerReport(me.slot, False, reason, settings.device, settings.asr_model, host=socket.gethostname(), pid=os.getpid())


def _consume(settings: Settings, slot: str, work: Callable[[], int], stopper: Stopper) -> None:
    app = wakeups.celery_app(settings.redis_url)

    @app.task(name=wakeups.TASK)
    def wake() -> None:
        passed("wake-up", "received")
        work()

    worker_ready.connect(stopper.install, weak=False)  # after Celery has installed handlers of its own
    options: dict[str, Any] = {"without_gossip": True, "without_mingle": True, "quiet": True, "loglevel": "WARNING"}
    concurrency = settings.max_jobs_in_flight
    options |= {"consumer_cls": WakeUpConsumer, "hostname": f"{slot}@spillway"}
    app.Worker(pool="threads", concurrency=concurrency, queues=[wakeups.QUEUE], **options).start()
