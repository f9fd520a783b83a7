"""What ended jobs leave behind and when it is to be deleted: the files first, by whoever asks here, then what the records say of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from core.redis_steps import NAMESPACE, RedisClient, RedisSteps

HELD_BACK_S = 60.0  # results whose job still owes something to the outside are looked at again after this long


class Kept(StrEnum):
    """With its results a job's record goes too, and whatever is left of it."""

    INPUTS = "inputs"
    PRODUCTS = "products"
    RESULTS = "results"


@dataclass(frozen=True)
class Expired:
    """One job that has ended, and what its files are found by."""

    job_id: str
    result_key: str | None
    source: str | None


class Retention:
    """Every method is atomic, and safe to repeat. All raise `StoreUnavailable` when Redis is away."""

    def __init__(self, redis: RedisClient, namespace: str = NAMESPACE) -> None:
        self._steps = RedisSteps(redis, namespace)

    def expired(self, kept: Kept, *, lifetime_s: float, limit: int) -> tuple[Expired, ...]:
        """Jobs that ended at least `lifetime_s` ago, by Redis' clock, and still keep it; those that ended first come first.

        They come again until they are let go. Results wait for what the job owes to the outside.
        """
        flat = self._steps.run("expired", kept, _ms(lifetime_s), limit, _ms(HELD_BACK_S))
        return tuple(Expired(*found) for found in zip(flat[::3], _or_none(flat[1::3]), _or_none(flat[2::3]), strict=True))

    def let_go(self, kept: Kept, job_ids: Iterable[str]) -> None:
        """Once their files are gone."""
        if ids := list(job_ids):
            self._steps.run("let_go", kept, *ids)


def _or_none(texts: Iterable[str]) -> Iterable[str | None]:
    return (text or None for text in texts)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
