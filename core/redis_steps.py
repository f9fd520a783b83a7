"""The atomic steps: small Lua scripts that Redis runs whole, so that every change of state is one compare-and-set."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

from core.crash_points import passed
from core.errors import StoreUnavailable

NAMESPACE = "spillway"
STEPS = (
    "submit", "claim", "beat", "keep", "finish", "cancel", "release", "retry", "reclaim_expired", "reclaim_slot", "delete",
    "claim_fetch", "beat_fetches", "fetched", "retry_fetch", "release_fetch",
    "claim_delivery", "beat_deliveries", "end_delivery", "release_delivery",
    "burst", "burst_called", "burst_settled", "expired", "let_go",
)  # fmt: skip
COUNTS = ("count_worker", "prune_workers", "unfinished", "spend", "burst_spent", "lead", "resign", "probe")  # steps that change no job
RedisClient = Any  # redis-py types every reply as a union with bytes; with decode_responses on it is str
AWAY = (ConnectionError, TimeoutError, BusyLoadingError)
# What it says, in a pipeline behind which command it was, when it is full, cannot save, misses its replicas, or is held by a script.
REFUSAL = re.compile(r"(^|: )(MISCONF|OOM|NOREPLICAS|LOADING|MASTERDOWN|BUSY)\b")


class RedisSteps:
    """Runs the steps of `core/lua` in one namespace of one Redis (not a cluster: the steps make their keys themselves)."""

    def __init__(self, redis: RedisClient, namespace: str) -> None:
        self._namespace = namespace
        prelude = _source("prelude")
        self._scripts = {name: redis.register_script(f"{prelude}\n{_source(name)}") for name in (*STEPS, *COUNTS)}

    def run(self, name: str, *arguments: object) -> Any:
        """The script's reply. Raises `StoreUnavailable` when Redis is away or refuses to write."""
        with redis_away():
            reply = self._scripts[name](keys=[self._namespace], args=arguments)
        if reply != []:  # it found nothing to do, and left no trace
            passed("step", name)
        return reply


def connect(url: str, *, timeout_s: float = 5.0, retries: int = 3, max_connections: int = 100) -> RedisClient:
    """A client that decodes to str. Each step survives being sent twice, so what a broken connection lost is sent again.

    What timed out is not: a Redis that is frozen stays so, and every caller knows better than we how long it may wait. With its
    retries nested, redis-py made of 2 s 8.8 s.
    """
    return Redis.from_url(
        url,
        decode_responses=True,
        max_connections=max_connections,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        socket_keepalive=True,
        driver_info=None,  # two questions less for each connection, which a Redis that loads its data answers slowly
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), retries, supported_errors=(ConnectionError,)),
    )


@contextmanager
def redis_away() -> Iterator[None]:
    """Translates what Redis says when it cannot serve; a wrong command stays an error of ours."""
    try:
        yield
    except AuthenticationError as error:
        raise StoreUnavailable("Redis refuses our password, or wants one: see that SPILLWAY_REDIS_URL has it") from error
    except AWAY as error:
        raise StoreUnavailable(f"Redis does not answer: {error}") from error
    except ResponseError as error:
        if isinstance(error, OutOfMemoryError | ReadOnlyError | NoPermissionError) or REFUSAL.search(str(error)):
            raise StoreUnavailable(f"Redis refuses: {error}") from error
        raise


def _source(name: str) -> str:
    return files("core").joinpath("lua", f"{name}.lua").read_text()
