"""The dispatcher's step for bursts: what is under way at every round, a new decision every few seconds."""

from time import monotonic

from core.bursts import BurstOutlook, Bursts, OverCap
from core.log import logger
from dispatcher.burst.bridge import Bridge
from dispatcher.burst.gauges import Gauges
from dispatcher.burst.moment import Moments
from dispatcher.burst.policy import decide
from dispatcher.burst.view import Bundle, Decision, Memory

log = logger("dispatcher.burst")


class Burster:
    def __init__(self, bridge: Bridge, moments: Moments, gauges: Gauges, bursts: Bursts, *, poll_s: float, is_on: bool) -> None:
        """Switched off it begins nothing, and brings home what is under way."""
        self._bridge, self._moments, self._gauges, self._bursts = bridge, moments, gauges, bursts
        self._poll_s, self._is_on = poll_s, is_on
        self._memory, self._decided = Memory(), 0.0

    def step(self) -> None:
        """Raises `StoreUnavailable`."""
        for _ in range(self._bridge.step()):
            self._moments.container_is_free(self._bridge.flights.values())
        if self._is_on and monotonic() - self._decided >= self._poll_s:
            self._decided = monotonic()
            decision, self._memory = decide(self._moments.now(self._bridge), self._memory)
            self._act(decision)
            self._tell(decision)

    def close(self) -> None:
        self._bridge.close()

    def _act(self, decision: Decision) -> None:
        for back in decision.take_back:
            self._bridge.take_back(back.call_id)
        if decision.bundles:
            self._bridge.want(decision.containers_wanted)
        for bundle in decision.bundles:
            self._begin(bundle)

    def _begin(self, bundle: Bundle) -> None:
        begun = self._bridge.begin(
            bundle.job_ids, reserve_usd=bundle.reserve_dollars, deadline_s=self._gauges.deadline_s(bundle.audio_s)
        )  # fmt: skip
        if isinstance(begun, OverCap):
            log.warning("no burst: over the cap", day_usd=begun.day_usd, month_usd=begun.month_usd)
        elif begun is not None:
            self._moments.begun(begun, needs_container=bundle.needs_container)
            log.info("burst", burst=begun.burst.id, jobs=len(begun.jobs), why=bundle.why)

    def _tell(self, decision: Decision) -> None:
        breaker = self._bridge.breaker
        self._bursts.tell(BurstOutlook(breaker.is_open, breaker.reason, decision.why), ttl_s=4 * self._poll_s)
