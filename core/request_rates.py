"""How often a caller may come: one bucket for each, in Redis, by its clock."""

from core.redis_steps import NAMESPACE, RedisClient, RedisSteps


class RequestRates:
    def __init__(self, redis: RedisClient, namespace: str = NAMESPACE) -> None:
        self._steps = RedisSteps(redis, namespace)

    def spend(self, who: str, *, per_minute: int) -> float:
        """Seconds until `who` may come again, 0 when it may now: then this call is counted. 0 per minute is no limit.

        A whole minute's worth may come at once. Raises `StoreUnavailable`; a lost reply that is asked for again counts twice.
        """
        return float(self._steps.run("spend", who, per_minute)) / 1000 if per_minute else 0.0
