"""Runs the dispatcher's steps in turn while it leads."""

import threading
from collections.abc import Callable, Sequence

from core.errors import StoreUnavailable
from core.log import logger

log = logger("dispatcher.loops")
Step = Callable[[], None]


def run(steps: Sequence[Step], *, leads: Callable[[], bool], went_round: Step, period_s: float, stop: threading.Event) -> None:
    """Every `period_s` until `stop`. A Redis that is away is waited for; anything else ends the process, to be started again."""
    is_away = False
    while not stop.is_set():
        try:
            if leads():
                for step in steps:
                    step()
            is_away = False
        except StoreUnavailable as error:
            if not is_away:  # said once: an outage may last for hours
                log.warning("redis away", reason=str(error))
            is_away = True
        went_round()
        stop.wait(period_s)
