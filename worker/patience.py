"""Waiting for a Redis that is away: leases stand still with it, and what is done is not thrown away."""

from collections.abc import Callable
from time import sleep
from typing import TypeVar

from core.errors import StoreUnavailable
from core.log import logger

log = logger("worker.patience")
Reply = TypeVar("Reply")
LONGEST_PAUSE_S = 5.0


def patiently(step: Callable[[], Reply]) -> Reply:
    """Tries until Redis answers. The step must survive being taken twice."""
    pause_s = 0.1
    while True:
        try:
            return step()
        except StoreUnavailable as error:
            log.warning("waiting for redis", reason=str(error))
            sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
