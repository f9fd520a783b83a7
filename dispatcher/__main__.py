"""The dispatcher's composition root: `python -m dispatcher`."""

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from uuid import uuid4

from core import wakeups
from core.errors import SettingsError, StoreUnavailable
from core.fetches import Fetches
from core.figures import Figures
from core.gcs import CloudStorage, Patience
from core.inventory import Inventory
from core.job_store import JobStore
from core.leased import Lease
from core.media import Ffmpeg
from core.outbox import DeliveryKind, Outbox
from core.process import begin
from core.redis_steps import RedisClient, connect
from core.retention import Kept, Retention
from core.settings import Settings, variable
from core.storage import bucket_of, open_file_store
from dispatcher import delivering
from dispatcher.burst.wiring import make_burster
from dispatcher.delivering import MOST_LOSSES, Deliverer
from dispatcher.expiring import Expirer, Lifetimes
from dispatcher.fetching import Fetcher, Limits, Stores
from dispatcher.gs_fetch import GsFetch
from dispatcher.guard import Guard
from dispatcher.health import went_round
from dispatcher.http_fetch import HttpFetch
from dispatcher.loops import run
from dispatcher.outputs import OutputSender
from dispatcher.reclaim import Reclaimer
from dispatcher.sending import Send
from dispatcher.sweep import Sweeper
from dispatcher.tidying import Tidier
from dispatcher.webhooks import RESOLVE_S, WebhookSender

LEADERSHIP_S = 10.0  # a standby takes over this long after the leader fell silent


def main() -> None:
    settings = begin("dispatcher")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    redis = connect(settings.redis_url)
    store = JobStore(redis)
    app = wakeups.celery_app(settings.redis_url)
    me, files = uuid4().hex, open_file_store(settings)
    sweeper = Sweeper(store, lambda: wakeups.waiting(redis), lambda times: wakeups.wake(app, times), Figures(redis))
    reclaimer = Reclaimer(store, lease_s=settings.lease_s, max_losses=settings.max_losses)
    fetcher, deliverer = make_fetcher(settings, redis, store, me), make_deliverer(settings, redis, store, me)
    try:
        burster = make_burster(settings, redis, store)
    except SettingsError as error:
        sys.exit(f"spillway dispatcher: {error}")
    expirer, tidier = Expirer(Retention(redis), files, lifetimes_of(settings)), Tidier(Inventory(redis), files)
    run(
        # Calls that are found are asked for before anybody judges their leases; a slow broker must not look like a gap to the reclaimer.
        (burster.step, reclaimer.step, fetcher.step, deliverer.step, expirer.step, tidier.step, sweeper.step),
        leads=lambda: store.lead(me, ttl_s=min(LEADERSHIP_S, settings.lease_s)),
        went_round=went_round,
        period_s=settings.sweep_period_s,
        stop=stop,
    )
    with ThreadPoolExecutor() as closers:  # side by side: each may wait for seconds, and Docker waits for 15 in all
        list(closers.map(lambda part: part.close(), (fetcher, deliverer, burster, expirer)))
    with suppress(StoreUnavailable):  # then it runs out by itself
        store.resign(me)


def lifetimes_of(settings: Settings) -> Lifetimes:
    return {Kept.INPUTS: settings.keep_inputs_s, Kept.PRODUCTS: settings.keep_products_s, Kept.RESULTS: settings.keep_results_s}


def make_fetcher(settings: Settings, redis: RedisClient, store: JobStore, me: str) -> Fetcher:
    http = HttpFetch(Guard(settings.fetch_allow), max_bytes=settings.max_upload_bytes)
    lease = Lease(me, settings.lease_s, settings.max_losses)
    return Fetcher(
        Stores(Fetches(redis, store), store, open_file_store(settings)),
        Ffmpeg(settings.ffmpeg),
        {"https": http, "http": http, "gs": GsFetch(CloudStorage(settings.gcs_credentials), bucket_of(settings))},
        lease,
        limits=Limits(settings.fetches_max, settings.max_upload_bytes, settings.max_duration_s, settings.heartbeat_s),
    )


def make_deliverer(settings: Settings, redis: RedisClient, store: JobStore, me: str) -> Deliverer:
    # The outbox tries again by itself, and a slow try takes a place from others.
    storage = CloudStorage(settings.gcs_credentials, Patience(silence_s=10.0, tries_s=10.0))
    outputs = OutputSender(open_file_store(settings).read, storage, bucket_of(settings))
    senders: dict[DeliveryKind, Send] = {DeliveryKind.OUTPUT: outputs}
    if settings.webhook_secret:
        guard = Guard(settings.callback_allow, variable=variable("callback_allow"), resolve_timeout_s=RESOLVE_S)
        senders[DeliveryKind.WEBHOOK] = WebhookSender(guard, settings.webhook_secret)
    return Deliverer(
        Outbox(redis, store),
        senders,
        Lease(me, settings.lease_s, MOST_LOSSES),
        limits=delivering.Limits(settings.deliveries_max, settings.heartbeat_s),
    )


if __name__ == "__main__":
    main()
