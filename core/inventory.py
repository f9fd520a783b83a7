"""Which files there should be, as the records have it, for whoever looks for those that should not, or are missing."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from core.crash_points import passed
from core.file_store import is_result
from core.job import Priority
from core.redis_steps import NAMESPACE, RedisClient, RedisSteps, redis_away

AT_ONCE = 500  # records in one round trip


@dataclass(frozen=True)
class Expected:
    """A file that a record names, and whose lack harms the job."""

    job_id: str
    key: str


@dataclass(frozen=True)
class Told:
    """What the last look for orphans found, for monitoring."""

    looked_at: float  # seconds since the epoch, by Redis' clock
    files: int  # without a record, and old enough to be deleted
    bytes: int  # of those
    missing: int  # files that a record names


class Inventory:
    """Reads alone, in portions; nothing waits for it. Every method raises `StoreUnavailable` when Redis is away."""

    def __init__(self, redis: RedisClient, namespace: str = NAMESPACE) -> None:
        self._redis, self._namespace = redis, namespace
        self._steps = RedisSteps(redis, namespace)

    def recorded(self, job_ids: Iterable[str]) -> set[str]:
        """Those of them that have a record."""
        asked = sorted(job_ids)
        found = self._of_each(asked, lambda pipe, job_id: pipe.exists(self._key("job", job_id)))
        return {job_id for job_id, is_there in zip(asked, found, strict=True) if is_there}

    def sources(self) -> set[str]:
        """Of the jobs that are still to be fetched."""
        with redis_away():
            waiting = self._redis.zrange(self._key("fetching"), 0, -1)
        return {source for said in self._said(waiting) if isinstance(source := said.get("source"), str)}

    def expected(self) -> Iterator[Expected]:
        """The recordings of jobs that wait for a runner, and the results of jobs that have ended; each while it is read."""
        for priority in Priority:
            with redis_away():
                waiting = self._redis.zrange(self._key("pending", priority), 0, -1)
            inputs = zip(waiting, self._said(waiting), strict=True)
            yield from (Expected(job_id, said["input_key"]) for job_id, said in inputs if said.get("input_key"))
        with redis_away():
            ended = self._redis.zscan_iter(self._key("kept", "results"), count=AT_ONCE)
            while portion := [job_id for job_id, _ in islice(ended, AT_ONCE)]:
                results = self._of_each(portion, lambda pipe, job_id: pipe.hget(self._key("job", job_id), "result_key"))
                yield from (Expected(job_id, key) for job_id, key in zip(portion, results, strict=True) if key)

    def still_expects(self, expected: Expected) -> bool:
        """Not once the job has gone on, or was deleted."""
        is_input = not is_result(expected.key)
        with redis_away():
            state, result = self._redis.hmget(self._key("job", expected.job_id), "state", "result_key")
        return bool(state == "queued" if is_input else result == expected.key)

    def prune_workers(self) -> int:
        return int(self._steps.run("prune_workers"))

    def tell(self, told: Told) -> None:
        with redis_away():
            self._redis.hset(self._key("orphans"), mapping=asdict(told))
        passed("redis", "orphans")

    def told(self) -> Told | None:
        """None before the first look."""
        with redis_away():
            said = self._redis.hgetall(self._key("orphans"))
        return Told(float(said["looked_at"]), int(said["files"]), int(said["bytes"]), int(said["missing"])) if said else None

    def _said(self, job_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """What submit and fetch wrote of each; nothing of one that is gone or broken."""
        for fixed, fetched in self._of_each(job_ids, lambda pipe, job_id: pipe.hmget(self._key("job", job_id), "fixed", "fetched")):
            try:
                yield {**json.loads(fixed or "{}"), **json.loads(fetched or "{}")}
            except (TypeError, ValueError):
                yield {}

    def _of_each(self, job_ids: Sequence[str], ask: Callable[[Any, str], object]) -> list[Any]:
        replies: list[Any] = []
        with redis_away():
            for start in range(0, len(job_ids), AT_ONCE):
                pipe = self._redis.pipeline(transaction=False)
                for job_id in job_ids[start : start + AT_ONCE]:
                    ask(pipe, job_id)
                replies += pipe.execute()
        return replies

    def _key(self, *parts: str) -> str:
        return ":".join((self._namespace, *parts))
