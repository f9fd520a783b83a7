"""Celery's consumer, with less patience between two looks at whether Redis is back."""

from typing import Any

from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

from core.log import logger

log = logger("worker.consumer")
RETRY_S = 0.5  # a job waits no longer for a Redis that is back than for a sweep


class WakeUpConsumer(Consumer):
    """Celery waits 2 s longer after each try, up to 30 s, and takes no setting for it: after a long outage jobs would wait as long."""

    def ensure_connected(self, conn: Any) -> Any:
        reasons: set[str] = set()  # each is said once: an outage may last for hours

        def say(error: Exception, _: float) -> None:
            if str(error) not in reasons:
                reasons.add(str(error))
                log.warning("no wake-ups: waiting for redis", reason=str(error))

        connected = conn.ensure_connection(say, interval_start=RETRY_S, interval_step=0, interval_max=RETRY_S, callback=maybe_shutdown)
        self.first_connection_attempt = False
        return connected
