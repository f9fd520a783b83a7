"""Delivers what ended jobs owe to the outside: a few at once, each in a thread of its own that never asks Redis anything."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic

from core.crash_points import passed
from core.errors import StoreUnavailable
from core.leased import Lease
from core.log import logger
from core.outbox import Delivery, DeliveryKind, DeliveryState, Outbox
from dispatcher.sending import Send, Tried, failed

log = logger("dispatcher.delivering")
PATIENCE_S = 86400.0  # from the job's end to the last try
FIRST_PAUSE_S, PAUSE_FACTOR = 5.0, 3.0  # 5 s, 15 s, 45 s, 2 min, 7 min, 20 min, 1 h, 3 h …
LONGEST_PAUSE_S = 4 * 3600.0  # … then every 4 h: 14 tries, the last at the end of the day
LONGEST_ASKED_S = 3600.0  # of pauses that a receiver asks for
MOST_PER_HOST = 2  # at once: a slow one must not hold up all others
MOST_LOSSES = 10
STOP_S = 5.0  # the threads look up every 0.5 s


@dataclass(frozen=True)
class Limits:
    most_at_once: int
    heartbeat_s: float
    most_per_host: int = MOST_PER_HOST


class Stopped(Exception):
    """Nobody waits for this delivery any more."""


@dataclass
class Flight:
    """One try under way. The thread writes `tried` last, the loop reads it."""

    delivery: Delivery
    began: float
    stopping: threading.Event = field(default_factory=threading.Event)
    is_over: threading.Event = field(default_factory=threading.Event)
    tried: Tried | None = None  # None once it is over: it was stopped
    thread: threading.Thread | None = None

    def check(self) -> None:
        if self.stopping.is_set():
            raise Stopped


class Deliverer:
    """`step` asks Redis and starts threads, and waits for no receiver; so all that Redis hears comes from one thread."""

    def __init__(
        self,
        outbox: Outbox,
        senders: Mapping[DeliveryKind, Send],
        lease: Lease,
        *,
        limits: Limits,
        pause_s: Callable[[int], float] | None = None,
    ) -> None:
        """`pause_s` tells from the number of tries before this one how long to wait for the next."""
        self._outbox, self._senders, self._lease, self._limits = outbox, senders, lease, limits
        self._pause_s = pause_s or pause_after
        self._flights: dict[str, Flight] = {}
        self._renewed = 0.0

    def step(self) -> None:
        """Raises `StoreUnavailable`; what had ended by then is committed by a later step."""
        self._settle()
        self._beat()
        while len(self._flights) < self._limits.most_at_once:
            delivery = self._outbox.claim(self._lease, busy_hosts=self._busy_hosts())
            if delivery is None:
                break
            self._start(delivery)

    def close(self) -> None:
        """Hands back what is under way, as far as Redis answers; else its leases expire."""
        for flight in self._flights.values():
            flight.stopping.set()
        deadline = monotonic() + STOP_S
        for flight in self._flights.values():
            if flight.thread:
                flight.thread.join(max(0.0, deadline - monotonic()))
        try:
            self._settle()
            for flight in self._flights.values():
                self._outbox.release(flight.delivery)
        except StoreUnavailable as error:
            log.warning("deliveries not handed back: their leases will expire", reason=str(error))

    # The loop's side

    def _busy_hosts(self) -> list[str]:
        count = Counter(flight.delivery.owed.host for flight in self._flights.values())
        return [host for host, flights in count.items() if flights >= self._limits.most_per_host]

    def _start(self, delivery: Delivery) -> None:
        if (running := self._flights.pop(delivery.id, None)) is not None:  # our own lease ran out while Redis was away
            running.stopping.set()
        flight = Flight(delivery, monotonic())
        flight.thread = threading.Thread(target=self._fly, args=(flight,), name=f"delivery-{delivery.id}", daemon=True)
        self._flights[delivery.id] = flight
        flight.thread.start()

    def _settle(self) -> None:
        for flight in [flight for flight in self._flights.values() if flight.is_over.is_set()]:
            state = self._commit(flight)
            delivery = flight.delivery
            del self._flights[delivery.id]
            answer = flight.tried.answer if flight.tried else None
            write = log.warning if state == DeliveryState.FAILED else log.info
            write(
                "delivery tried", job_id=delivery.job.id, delivery=delivery.id, kind=delivery.owed.kind, host=delivery.owed.host,
                tries=len(delivery.attempts) + 1, status=answer and answer.status, reason=answer and answer.error, now=state,
                seconds=round(monotonic() - flight.began, 2),
            )  # fmt: skip

    def _commit(self, flight: Flight) -> DeliveryState | None:
        delivery, tried = flight.delivery, flight.tried
        if tried is None:
            return self._outbox.release(delivery)
        if tried.state != DeliveryState.PENDING:
            return self._outbox.end(delivery, tried.state, tried.answer)
        pause_s = max(self._pause_s(len(delivery.attempts)), min(tried.after_s, LONGEST_ASKED_S))
        return self._outbox.retry(delivery, tried.answer, pause_s=pause_s, patience_s=PATIENCE_S)

    def _beat(self) -> None:
        flights = list(self._flights.values())
        is_due = monotonic() - self._renewed >= self._limits.heartbeat_s
        held = self._outbox.beat([flight.delivery for flight in flights], lease_s=self._lease.lease_s, renew=is_due)
        if is_due:
            self._renewed = monotonic()
        for flight, is_held in zip(flights, held, strict=True):
            if not is_held:
                flight.stopping.set()

    # The thread's side

    def _fly(self, flight: Flight) -> None:
        """Catches everything: whatever breaks, the delivery is tried again."""
        kind = flight.delivery.owed.kind
        try:
            if kind in self._senders:
                tried = self._senders[kind](flight.delivery, flight.check)
                passed("sent", kind)
                flight.tried = tried
            else:
                flight.tried = failed(f"this installation is not set up to deliver by {kind}: tell its operator")
        except Stopped:
            flight.tried = None
        except Exception:
            log.exception("delivery broke", job_id=flight.delivery.job.id, delivery=flight.delivery.id)
            flight.tried = failed("something broke on our side: the log has the details")
        flight.is_over.set()


def pause_after(tries: int) -> float:
    """Grows by three from try to try up to a bound; a quarter of chance, so that what failed together does not come back together."""
    return min(FIRST_PAUSE_S * PAUSE_FACTOR**tries, LONGEST_PAUSE_S) * random.uniform(0.75, 1.25)
