"""Takes back the jobs of runners that fell silent, but never because Redis or its clock did."""

import math
from collections.abc import Callable
from time import monotonic

from core.job_store import JobStore
from core.log import logger

log = logger("dispatcher.reclaim")
CLOCK_JUMP_S = 5.0  # more than any pause of ours; less would mistake a slow step for a jump
AWAY_S = 10.0  # a gap between our own steps that leaves no doubt; a lease of 60 s renewed every 15 s outlives it easily


class Reclaimer:
    """Stays quiet for one lease after Redis was away, restarted or frozen, and after its clock jumped: runners could not
    renew in that time, so that an expired lease says nothing of them. Redis was away when no step of ours got through for
    `AWAY_S`, whichever step it was that failed, so a leader that has just begun is quiet too."""

    def __init__(self, store: JobStore, *, lease_s: float, max_losses: int, clock: Callable[[], float] = monotonic) -> None:
        self._store, self._lease_s, self._max_losses, self._clock = store, lease_s, max_losses, clock
        self._quiet_until = 0.0
        self._offset_s = 0.0
        self._got_through = -math.inf

    def step(self) -> None:
        """Raises `StoreUnavailable`."""
        asked = self._clock()
        offset_s, uptime_s = self._store.clock_s() - asked, self._store.uptime_s()
        answered = self._clock()
        self._quiet_until = max(self._quiet_until, answered + self._quiet_for_s(answered, offset_s, uptime_s))
        self._got_through, self._offset_s = answered, offset_s
        if answered >= self._quiet_until:
            self._take_back()

    def _quiet_for_s(self, answered: float, offset_s: float, uptime_s: float) -> float:
        if answered - self._got_through > min(AWAY_S, self._lease_s / 4) or abs(offset_s - self._offset_s) > CLOCK_JUMP_S:
            log.warning("redis was away or its clock jumped; nothing is taken back for a lease", seconds=self._lease_s)
            return self._lease_s
        return max(0.0, self._lease_s - uptime_s)

    def _take_back(self) -> None:
        for job_id, state in self._store.reclaim_expired(max_losses=self._max_losses).items():
            log.warning("runner lost", job_id=job_id, now=state)
