"""Builds what bursts need, for the dispatcher and for the command by hand."""

from collections.abc import Iterable
from dataclasses import dataclass

from core.burst import Stack
from core.bursts import Bursts
from core.errors import SettingsError
from core.job_store import JobStore
from core.media import Ffmpeg
from core.redis_steps import RedisClient
from core.settings import Settings, variable
from core.storage import open_file_store
from core.worker_reports import WorkerReport
from dispatcher.burst.bridge import Bridge, Limits
from dispatcher.burst.burster import Burster
from dispatcher.burst.calls import ModalCalls, Place
from dispatcher.burst.cargo import Cargo
from dispatcher.burst.flight import Pilot
from dispatcher.burst.gauges import Gauges
from dispatcher.burst.moment import Moments, caps_of, rules_of
from dispatcher.burst.settling import Money
from dispatcher.burst.tariff import paid_per_s


@dataclass(frozen=True)
class Parts:
    calls: ModalCalls
    cargo: Cargo
    bursts: Bursts
    gauges: Gauges
    moments: Moments
    bridge: Bridge


def build(settings: Settings, redis: RedisClient, jobs: JobStore) -> Parts:
    """Connects to nothing."""
    calls, bursts = ModalCalls(Place.of(settings)), Bursts(redis, jobs)
    cargo = Cargo(open_file_store(settings), Ffmpeg(settings.ffmpeg), settings.file_store)
    startup_s, timeout_s = settings.modal_startup_timeout_s, settings.modal_timeout_s
    gauges = Gauges(bursts, lambda: stacks_of(jobs.workers()), startup_s=startup_s, timeout_s=timeout_s)
    bridge = Bridge(
        jobs,
        bursts,
        Pilot(calls, bursts, cargo, startup_s=startup_s),
        cargo,
        gauges=gauges,
        limits=Limits(settings.lease_s, settings.heartbeat_s, settings.max_failures),
        money=Money(
            caps_of(settings),
            lambda device: paid_per_s(device, settings.modal_gpus),
            settings.modal_scaledown_s,
            startup_s + timeout_s,
        ),
    )
    return Parts(calls, cargo, bursts, gauges, Moments(jobs, bursts, gauges, settings), bridge)


def make_burster(settings: Settings, redis: RedisClient, jobs: JobStore) -> Burster:
    """Raises `SettingsError` for bursts that cannot be."""
    if settings.burst and not (settings.modal_token_id and settings.modal_token_secret):
        names = f"{variable('modal_token_id')} and {variable('modal_token_secret')}"
        raise SettingsError(f"{variable('burst')} is on without a token for Modal: set {names}, or switch it off")
    parts = build(settings, redis, jobs)
    return Burster(parts.bridge, parts.moments, parts.gauges, parts.bursts, poll_s=rules_of(settings).poll_s, is_on=settings.burst)


def stacks_of(workers: Iterable[WorkerReport]) -> set[Stack]:
    """Of those that have told theirs."""
    told = (worker for worker in workers if worker.lock_sha256)
    return {Stack(lock_sha256=worker.lock_sha256, models_sha256=worker.models_sha256) for worker in told}
