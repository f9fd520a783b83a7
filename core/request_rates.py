"""How often a caller may come: one bucket for each, in Redis, by its clock."""

from core.redis_steps import NAMESPACE, RedisClient, RedisSteps


class RequestRates:
    def __init__(self, redis: RedisClient, namespace: str = NAMESPACE) -> None:
        self._steps = RedisSteps(redis, namespace)

    def spend(self, who: str, *, most: int, window_s: int = 60) -> float:
        """Seconds until `who` may come again, 0 when it may now: then this call is counted. `most` of 0 is no limit.

        A whole window's worth may come at once. Raises `StoreUnavailable`; a lost reply that is asked for again counts twice.
        """
        return float(self._steps.run("spend", who, most, window_s * 1000)) / 1000 if most else 0.0
