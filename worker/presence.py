"""What this worker says of itself in `GET /v1/queue`."""

import threading
from dataclasses import replace
from time import monotonic

from core.burst import Stack
from core.job_store import JobStore
from core.log import logger
from core.worker_reports import Download, WorkerReport, WorkerState
from worker.patience import patiently

log = logger("worker.presence")


class Presence:
    """Unfit until it is said to be fit; forgotten three heartbeats after the process has ended."""

    def __init__(self, store: JobStore, about: WorkerReport, *, heartbeat_s: float) -> None:
        self._store, self._heartbeat_s, self._about = store, heartbeat_s, about
        self._said: WorkerReport | None = None
        self._said_at = 0.0
        self._lock = threading.Lock()  # what was said last is what is so

    def beat(self) -> None:
        """Raises `StoreUnavailable`."""
        with self._lock:
            about = self._about
            self._store.report_worker(about, ttl_s=3 * self._heartbeat_s)
            self._said, self._said_at = about, monotonic()

    def keep_up(self) -> None:
        """Beats if there is news or a heartbeat is due. Raises `StoreUnavailable`."""
        if self._about is not self._said or monotonic() - self._said_at >= self._heartbeat_s:
            self.beat()

    def is_fit(self, stack: Stack) -> None:
        self._about = replace(self._about, lock_sha256=stack.lock_sha256, models_sha256=stack.models_sha256)
        self._become(WorkerState.FIT, "")
        patiently(self.beat)

    def is_unfit(self, reason: str, state: WorkerState = WorkerState.UNFIT) -> None:
        log.error("worker unfit", reason=reason)
        self._become(state, reason)
        patiently(self.beat)

    def prepares(self, state: WorkerState, reason: str, downloading: Download | None = None) -> None:
        """Told by whoever keeps up, so that no download waits for Redis."""
        self._become(state, reason, downloading)

    def _become(self, state: WorkerState, reason: str, downloading: Download | None = None) -> None:
        self._about = replace(self._about, fit=state == WorkerState.FIT, state=state, reason=reason, downloading=downloading)
