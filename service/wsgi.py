"""The service's composition root: `python -m gunicorn --config service/gunicorn_conf.py 'service.wsgi:create()'`."""

from functools import partial

from flask import Flask

from core import log
from core.api_keys import ApiKeys, key_secrets
from core.bursts import Bursts
from core.errors import SettingsError
from core.figures import Figures
from core.job_store import JobStore
from core.media import Ffmpeg
from core.outbox import Outbox
from core.redis_steps import RedisClient, connect
from core.request_rates import RequestRates
from core.settings import Settings
from core.storage import open_file_store
from core.wakeups import celery_app, wake
from service.access import is_loopback
from service.app import make_app
from service.bursts import BurstAccounts
from service.collaborators import Collaborators
from service.places import RESERVED_THREADS, Places

REDIS_TIMEOUT_S = 2.0  # a request that waits for Redis holds a thread


def create() -> Flask:
    settings = checked_settings()
    log.configure("service", level=settings.log_level, form=settings.log_format)
    log.logger("service").info("starting", access=settings.access, host=settings.host, port=settings.port)
    redis = redis_client(settings)
    has_keys, jobs = settings.access == "keys", JobStore(redis)
    collaborators = Collaborators(
        settings=settings,
        keys=ApiKeys(redis, key_secrets(settings)) if has_keys else None,
        rates=RequestRates(redis),
        jobs=jobs,
        figures=Figures(redis),
        bursts=BurstAccounts(Bursts(redis, jobs), settings),
        outbox=Outbox(redis, jobs),
        files=open_file_store(settings),
        ffmpeg=Ffmpeg(settings.ffmpeg),
        wake=partial(wake, celery_app(settings.redis_url)),
        long_requests=Places(settings.service_threads - RESERVED_THREADS, shared=has_keys),
        event_streams=Places(settings.event_streams_max, shared=has_keys),
    )
    return make_app(collaborators)


def checked_settings() -> Settings:
    """Raises `SettingsError` for what the service cannot run with."""
    settings = Settings.from_environment()
    _check_access(settings)
    most = settings.service_threads - RESERVED_THREADS - 1
    if settings.event_streams_max > most:
        raise SettingsError(
            f"SPILLWAY_EVENT_STREAMS_MAX is {settings.event_streams_max}: with {settings.service_threads} threads"
            f" (SPILLWAY_SERVICE_THREADS) at most {most} leave room for uploads and probes"
        )
    return settings


def _check_access(settings: Settings) -> None:
    if settings.access == "keys":
        key_secrets(settings)
    elif not is_loopback(settings.host):
        raise SettingsError(
            f"SPILLWAY_ACCESS is open and SPILLWAY_HOST is {settings.host}: without keys listen on loopback only, as on 127.0.0.1,"
            " or set SPILLWAY_ACCESS=keys"
        )


def redis_client(settings: Settings) -> RedisClient:
    # A connection for each thread and one more for the subscription of each stream.
    most = settings.service_threads + settings.event_streams_max
    return connect(settings.redis_url, timeout_s=REDIS_TIMEOUT_S, retries=1, max_connections=most)
