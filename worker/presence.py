"""What this worker says of itself in `GET /v1/queue`."""

from dataclasses import replace

from core.job_store import JobStore, WorkerReport
from core.log import logger
from worker.patience import patiently

log = logger("worker.presence")


class Presence:
    """Unfit until it is said to be fit; forgotten three heartbeats after the process has ended."""

    def __init__(self, store: JobStore, about: WorkerReport, *, heartbeat_s: float) -> None:
        self._store, self._heartbeat_s, self._about = store, heartbeat_s, about

    def beat(self) -> None:
        """Raises `StoreUnavailable`."""
        self._store.report_worker(self._about, ttl_s=3 * self._heartbeat_s)

    def is_fit(self) -> None:
        self._become(fit=True, reason="")

    def is_unfit(self, reason: str) -> None:
        log.error("worker unfit", reason=reason)
        self._become(fit=False, reason=reason)

    def _become(self, *, fit: bool, reason: str) -> None:
        self._about = replace(self._about, fit=fit, reason=reason)
        patiently(self.beat)
