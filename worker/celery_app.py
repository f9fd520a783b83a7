"""The GPU worker's composition root: `python -m worker.celery_app`. One process per GPU, one thread per job in flight."""

import os
import signal
import sys
import threading
from time import monotonic
from typing import Any
from uuid import uuid4

from celery.signals import worker_ready

from core import log, wakeups
from core.errors import SpillwayError
from core.file_store import LocalFileStore
from core.job_store import JobStore, Runner, WorkerReport
from core.media import Ffmpeg
from core.redis_steps import connect
from core.settings import Settings
from worker.engine.load import load_engine
from worker.leases import Leases, Rhythm
from worker.runner import JobRunner, Limits
from worker.work import Transcribe

logger = log.logger("worker")


class Presence:
    """What this worker says of itself in `GET /v1/queue`."""

    def __init__(self, store: JobStore, settings: Settings) -> None:
        self._store, self._settings = store, settings
        self.fit, self.reason = False, "loading models"

    def report(self, jobs_in_flight: int = 0) -> None:
        """Raises `StoreUnavailable`."""
        settings = self._settings
        about = WorkerReport(settings.worker_slot, self.fit, self.reason, settings.device, settings.asr_model, jobs_in_flight)
        self._store.report_worker(about, ttl_s=3 * settings.heartbeat_s)


def main() -> None:
    settings = Settings.from_environment()
    log.configure("worker", level=settings.log_level, form=settings.log_format)
    store = JobStore(connect(settings.redis_url))
    presence = Presence(store, settings)
    me = Runner(settings.worker_slot, uuid4().hex)
    leases = Leases(store, Rhythm(lease_s=settings.lease_s, heartbeat_s=settings.heartbeat_s), presence.report)
    leases.start()
    transcribe = _engine(settings, presence)
    runner = _runner(settings, store, leases, me, transcribe)
    for job_id, state in store.reclaim_slot(me, max_losses=settings.max_losses).items():
        logger.warning("taken back from this slot's last process", job_id=job_id, now=state)
    presence.fit, presence.reason = True, ""
    presence.report()
    _consume(settings, runner, Stopper(runner, leases, settings.stop_grace_s))


def _engine(settings: Settings, presence: Presence) -> Transcribe:
    """Says why and ends the process when the models do not load; an unfit worker takes no jobs."""
    presence.report()
    begun = monotonic()
    try:
        engine = load_engine(settings)
    except SpillwayError as error:
        presence.reason = str(error)
        presence.report()
        logger.error("worker unfit", reason=str(error))
        sys.exit(1)
    logger.info("models loaded", seconds=round(monotonic() - begun, 1), device=settings.device, asr_model=settings.asr_model)
    return engine.transcribe


def _runner(settings: Settings, store: JobStore, leases: Leases, me: Runner, transcribe: Transcribe) -> JobRunner:
    limits = Limits(settings.lease_s, settings.max_audio_in_flight_s, settings.max_failures)
    return JobRunner(store, LocalFileStore(settings.file_store_dir), Ffmpeg(settings.ffmpeg), transcribe, leases, me, limits)


class Stopper:
    """On SIGTERM: no new jobs, what is nearly done may finish, the rest is handed back. Celery would only join its threads."""

    def __init__(self, runner: JobRunner, leases: Leases, grace_s: float) -> None:
        self._runner, self._leases, self._grace_s = runner, leases, grace_s
        self._stopping = threading.Event()

    def install(self, **_: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, *_: Any) -> None:
        if self._stopping.is_set():
            self._grace_s = 0.0
            return
        self._stopping.set()
        threading.Thread(target=self._stop, name="stop").start()

    def _stop(self) -> None:
        logger.info("stopping", jobs_in_flight=len(self._leases.in_flight()), grace_s=self._grace_s)
        self._runner.stop_claiming()
        begun = monotonic()
        while self._leases.in_flight() and monotonic() - begun < self._grace_s:
            threading.Event().wait(0.1)
        self._runner.release_all()
        os._exit(0)


def _consume(settings: Settings, runner: JobRunner, stopper: Stopper) -> None:
    app = wakeups.celery_app(settings.redis_url)

    @app.task(name=wakeups.TASK)
    def work() -> None:
        runner.work()

    worker_ready.connect(stopper.install, weak=False)  # after Celery has installed handlers of its own
    app.Worker(
        pool="threads",
        concurrency=settings.max_jobs_in_flight,
        queues=[wakeups.QUEUE],
        hostname=f"{settings.worker_slot}@spillway",
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
        quiet=True,
    ).start()


if __name__ == "__main__":
    main()
