"""What sources to fetch and deliveries to send have in common: both are taken by lease and fencing token, and renewed together."""

from collections.abc import Iterable
from dataclasses import dataclass

from core.job_store import Verdict
from core.redis_steps import RedisSteps


@dataclass(frozen=True)
class Lease:
    """Who takes, for how long a silent one keeps what it took, in seconds, and how many may die with one of them."""

    owner: str
    lease_s: float
    max_losses: int


def beat(steps: RedisSteps, step: str, held: Iterable[tuple[str, int]], *, lease_s: float, renew: bool) -> tuple[bool, ...]:
    """Whether each (id, token) is still held. Raises `StoreUnavailable`."""
    flat = [value for pair in held for value in pair]
    return tuple(verdict == Verdict.HELD for verdict in steps.run(step, milliseconds(lease_s), int(renew), *flat)) if flat else ()


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
