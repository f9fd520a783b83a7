"""Waiting for a Redis that is away: leases stand still with it, and what is done is not thrown away."""

from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeVar

from core.errors import StoreUnavailable
from core.log import logger

log = logger("worker.patience")
Reply = TypeVar("Reply")
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 1.0  # a job waits no longer for a Redis that is back than for a sweep


def patiently(step: Callable[[], Reply]) -> Reply:
    """Tries until Redis answers. The step must survive being taken twice."""
    began = monotonic()
    try:
        return step()
    except StoreUnavailable as error:  # said once: an outage may last for hours
        log.warning("waiting for redis", reason=str(error))
    reply = _retried(step)
    log.info("redis is back", seconds=round(monotonic() - began, 1))
    return reply


def _retried(step: Callable[[], Reply]) -> Reply:
    pause_s = FIRST_PAUSE_S
    while True:
        sleep(pause_s)
        try:
            return step()
        except StoreUnavailable:
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
