"""Delivers what ended jobs owe to the outside: a few at once, each in a thread of its own that never asks Redis anything."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from core.crash_points import passed
from core.errors import StoreUnavailable
from core.leased import Lease
from core.log import logger
from core.outbox import Delivery, DeliveryKind, DeliveryState, Outbox
from dispatcher.flights import Flight, Flights, Stopped
from dispatcher.sending import Send, Tried, failed

log = logger("dispatcher.delivering")
PATIENCE_S = 86400.0  # from the job's end to the last try
FIRST_PAUSE_S, PAUSE_FACTOR = 5.0, 3.0  # 5 s, 15 s, 45 s, 2 min, 7 min, 20 min, 1 h, 3 h …
LONGEST_PAUSE_S = 4 * 3600.0  # … then every 4 h: 14 tries, the last at the end of the day
LONGEST_ASKED_S = 3600.0  # of pauses that a receiver asks for
MOST_PER_HOST = 2  # at once: a slow one must not hold up all others
MOST_LOSSES = 10


@dataclass(frozen=True)
class Limits:
    most_at_once: int
    heartbeat_s: float
    most_per_host: int = MOST_PER_HOST


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
        self._flights = Flights[Delivery, Tried | None](self._tried, heartbeat_s=limits.heartbeat_s)

    def step(self) -> None:
        """Raises `StoreUnavailable`; what had ended by then is committed by a later step."""
        self._flights.settle(self._commit)
        self._flights.beat(self._beat)
        while len(self._flights) < self._limits.most_at_once:
            delivery = self._outbox.claim(self._lease, busy_hosts=self._busy_hosts())
            if delivery is None:
                break
            self._flights.start(delivery)

    def close(self) -> None:
        """Hands back what is under way, as far as Redis answers; else its leases expire."""
        self._flights.stop()
        try:
            self._flights.settle(self._commit)
            for flight in self._flights:
                self._outbox.release(flight.load)
        except StoreUnavailable as error:
            log.warning("deliveries not handed back: their leases will expire", reason=str(error))

    # The loop's side

    def _busy_hosts(self) -> list[str]:
        count = Counter(flight.load.owed.host for flight in self._flights)
        return [host for host, flights in count.items() if flights >= self._limits.most_per_host]

    def _beat(self, held: Sequence[Delivery], renew: bool) -> tuple[bool, ...]:
        return self._outbox.beat(held, lease_s=self._lease.lease_s, renew=renew)

    def _commit(self, flight: Flight[Delivery, Tried | None]) -> None:
        delivery, tried = flight.load, flight.outcome
        state = self._outbox.release(delivery) if tried is None else self._ended(delivery, tried)
        answer = tried.answer if tried else None
        write = log.warning if state == DeliveryState.FAILED else log.info
        write(
            "delivery tried", job_id=delivery.job.id, delivery=delivery.id, kind=delivery.owed.kind, host=delivery.owed.host,
            tries=len(delivery.attempts) + 1, status=answer and answer.status, reason=answer and answer.error, now=state,
            seconds=flight.seconds,
        )  # fmt: skip

    def _ended(self, delivery: Delivery, tried: Tried) -> DeliveryState | None:
        if tried.state != DeliveryState.PENDING:
            return self._outbox.end(delivery, tried.state, tried.answer)
        pause_s = max(self._pause_s(len(delivery.attempts)), min(tried.after_s, LONGEST_ASKED_S))
        return self._outbox.retry(delivery, tried.answer, pause_s=pause_s, patience_s=PATIENCE_S)

    # The thread's side

    def _tried(self, flight: Flight[Delivery, Tried | None]) -> Tried | None:
        """None when it was stopped. Catches everything: whatever breaks, the delivery is tried again."""
        delivery = flight.load
        kind = delivery.owed.kind
        try:
            if kind not in self._senders:
                return failed(f"this installation is not set up to deliver by {kind}: tell its operator")
            tried = self._senders[kind](delivery, flight.check)
            passed("sent", kind)
            return tried
        except Stopped:
            return None
        except Exception:
            log.exception("delivery broke", job_id=delivery.job.id, delivery=delivery.id)
            return failed("something broke on our side: the log has the details")


def pause_after(tries: int) -> float:
    """Grows by three from try to try up to a bound; a quarter of chance, so that what failed together does not come back together."""
    return min(FIRST_PAUSE_S * PAUSE_FACTOR**tries, LONGEST_PAUSE_S) * random.uniform(0.75, 1.25)
