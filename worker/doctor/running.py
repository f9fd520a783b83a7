"""The worker that already runs on the GPU in question: its models fill the memory, and there is no room for them twice."""

from contextlib import closing

from redis.exceptions import RedisError

from core.errors import StoreUnavailable
from core.job_store import JobStore
from core.redis_steps import connect
from core.settings import Settings
from core.worker_reports import WorkerReport, WorkerState
from worker.slots import is_slot_of, is_taken

PATIENCE_S = 5.0
HOLDING = (WorkerState.LOADING, WorkerState.FIT)
STOP_IT = (
    "stop it first: `docker compose stop worker`, then `docker compose run --rm worker python -m worker.doctor --deep`, "
    "then `docker compose start worker`"
)


def running_worker(settings: Settings) -> str | None:
    """Its slot. None also without Redis or without its file store, by which a worker of ours is told from a stranger."""
    if settings.device == "cpu":
        return None
    return next((report.slot for report in _reports(settings) if _holds_memory(report, settings)), None)


def _holds_memory(report: WorkerReport, settings: Settings) -> bool:
    """Reports outlive their process by some heartbeats; a slot does not."""
    is_one = report.device == "cuda" and report.state in HOLDING and is_slot_of(settings, report.slot)
    return is_one and is_taken(report.slot, settings.file_store_dir)


def _reports(settings: Settings) -> tuple[WorkerReport, ...]:
    try:
        with closing(connect(settings.redis_url, timeout_s=PATIENCE_S, retries=0)) as redis:
            return JobStore(redis).workers()
    except (StoreUnavailable, RedisError, ValueError):  # the doctor's line of Redis says which
        return ()
