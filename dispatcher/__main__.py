"""The dispatcher's composition root: `python -m dispatcher`."""

import signal
import threading
from uuid import uuid4

from core import wakeups
from core.figures import Figures
from core.job_store import JobStore
from core.process import begin
from core.redis_steps import connect
from dispatcher.health import went_round
from dispatcher.loops import run
from dispatcher.reclaim import Reclaimer
from dispatcher.sweep import Sweeper

LEADERSHIP_S = 10.0  # a standby takes over this long after the leader fell silent


def main() -> None:
    settings = begin("dispatcher")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    redis = connect(settings.redis_url)
    store = JobStore(redis)
    app = wakeups.celery_app(settings.redis_url)
    sweeper = Sweeper(store, lambda: wakeups.waiting(redis), lambda times: wakeups.wake(app, times), Figures(redis))
    reclaimer = Reclaimer(store, lease_s=settings.lease_s, max_losses=settings.max_losses)
    me = uuid4().hex
    run(
        (reclaimer.step, sweeper.step),  # a slow broker must not look like a gap to the reclaimer
        leads=lambda: store.lead(me, ttl_s=LEADERSHIP_S),
        went_round=went_round,
        period_s=settings.sweep_period_s,
        stop=stop,
    )


if __name__ == "__main__":
    main()
