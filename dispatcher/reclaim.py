"""Takes back the jobs of runners that fell silent, but never because Redis or its clock did."""

from collections.abc import Callable
from time import monotonic

from core.job_store import JobStore
from core.log import logger

log = logger("dispatcher.reclaim")
CLOCK_JUMP_S = 5.0  # more than any pause of ours; less would mistake a slow step for a jump


class Reclaimer:
    """Stays quiet for one lease after Redis was away, restarted or frozen, and after its clock jumped: runners could not
    renew in that time, so that an expired lease says nothing of them."""

    def __init__(self, store: JobStore, *, lease_s: float, max_losses: int, clock: Callable[[], float] = monotonic) -> None:
        self._store, self._lease_s, self._max_losses, self._clock = store, lease_s, max_losses, clock
        self._quiet_until = 0.0
        self._offset_s: float | None = None

    def step(self) -> None:
        """Raises `StoreUnavailable`, and is quiet for a lease after that."""
        asked = self._clock()
        quiet_before, self._quiet_until = self._quiet_until, asked + self._lease_s
        offset_s = self._store.clock_s() - asked
        uptime_s = self._store.uptime_s()
        self._quiet_until = max(quiet_before, asked + self._quiet_for_s(offset_s, uptime_s))
        self._offset_s = offset_s
        if self._clock() >= self._quiet_until:
            self._take_back()

    def _quiet_for_s(self, offset_s: float, uptime_s: float) -> float:
        if self._offset_s is not None and abs(offset_s - self._offset_s) > CLOCK_JUMP_S:
            log.warning("redis' clock jumped or it was frozen; reclaiming pauses for a lease", seconds=self._lease_s)
            return self._lease_s
        return max(0.0, self._lease_s - uptime_s)

    def _take_back(self) -> None:
        for job_id, state in self._store.reclaim_expired(max_losses=self._max_losses).items():
            log.warning("runner lost", job_id=job_id, now=state)
