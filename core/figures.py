"""What monitoring reads of Redis: totals that the steps raise as they go, and what waits now. Nothing of it decides about a job."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.crash_points import passed
from core.job import Priority
from core.job_store import WAIT_BOUNDS_S, Runner
from core.redis_steps import NAMESPACE, RedisClient, RedisSteps, redis_away

KEPT_MS = 7 * 86_400_000  # how long a worker's counts are remembered, so that its next report is told from its last


@dataclass(frozen=True)
class Queued:
    """Jobs of one priority that wait for a runner."""

    jobs: int
    audio_s: float
    oldest_wait_s: float


@dataclass(frozen=True)
class Waits:
    """How long jobs waited for their first runner, as a histogram: (bound, jobs up to it), the last bound is infinite."""

    buckets: tuple[tuple[float, int], ...]
    sum_s: float


@dataclass(frozen=True)
class Memory:
    """Of a worker's GPU, with what others use of it."""

    used_bytes: int
    size_bytes: int


@dataclass(frozen=True)
class WorkerFigures:
    """What a worker's process has counted since it began, by names of the totals."""

    counts: Mapping[str, int]
    memory: Memory | None


@dataclass(frozen=True)
class Snapshot:
    queued: Mapping[Priority, Queued]
    waits: Mapping[Priority, Waits]
    fetching_jobs: int
    undelivered: int
    oldest_undelivered_s: float
    has_leader: bool
    orphan_files: int  # at the last look
    missing_files: int
    totals: Mapping[str, int]  # raised by the steps, never lowered; times in ms


class Figures:
    """Every method raises `StoreUnavailable` when Redis is away."""

    def __init__(self, redis: RedisClient, namespace: str = NAMESPACE) -> None:
        self._redis, self._namespace = redis, namespace
        self._steps = RedisSteps(redis, namespace)

    def snapshot(self) -> Snapshot:
        """In four round trips, however much waits."""
        totals, waits, backlog, orphans, fetching, undelivered, oldest, leader, now_ms = self._now()
        return Snapshot(
            queued=self._queued(backlog, now_ms),
            waits={priority: _waits(waits, priority) for priority in Priority},
            fetching_jobs=fetching,
            undelivered=undelivered,
            oldest_undelivered_s=_seconds(now_ms - oldest[0][1]) if oldest else 0.0,
            has_leader=bool(leader),
            orphan_files=int(orphans.get("files", 0)),
            missing_files=int(orphans.get("missing", 0)),
            totals={name: int(value) for name, value in totals.items()},
        )

    def memory(self, slots: Sequence[str]) -> dict[str, Memory]:
        """Of the workers that have a GPU."""
        told = self._ask(lambda pipe: [pipe.hmget(self._key("figures", slot), "vram_used_bytes", "vram_size_bytes") for slot in slots])
        return {slot: Memory(int(used), int(size)) for slot, (used, size) in zip(slots, told, strict=True) if used and size}

    def count(self, name: str, by: int) -> None:
        """Raises a total that no step raises."""
        with redis_away():
            self._redis.hincrby(self._key("counters"), name, by)
        passed("redis", "counters")

    def report(self, runner: Runner, figures: WorkerFigures) -> None:
        """Adds what is new to the totals; safe to repeat."""
        memory = (figures.memory.used_bytes, figures.memory.size_bytes) if figures.memory else ("", "")
        counts = [part for item in sorted(figures.counts.items()) for part in item]
        self._steps.run("count_worker", runner.slot, runner.boot_id, KEPT_MS, *memory, *counts)

    def _now(self) -> tuple[Any, ...]:
        def ask(pipe: Any) -> None:
            pipe.hgetall(self._key("counters")).hgetall(self._key("waits")).hgetall(self._key("totals"))
            pipe.hgetall(self._key("orphans")).zcard(self._key("fetching")).zcard(self._key("undelivered"))
            pipe.zrange(self._key("undelivered"), 0, 0, withscores=True).exists(self._key("leader")).time()

        *found, (seconds, microseconds) = self._ask(ask)
        return *found, 1000 * seconds + microseconds / 1000

    def _queued(self, backlog: Mapping[str, str], now_ms: float) -> dict[Priority, Queued]:
        places = [self._key("pending", priority) for priority in Priority]
        counts = self._ask(lambda pipe: [pipe.zcard(place) for place in places])
        heads = self._ask(lambda pipe: [pipe.zrange(place, 0, 0) for place in places])
        created_ms = self._ask(lambda pipe: [pipe.hget(self._key("job", *head), "created_at") for head in heads])
        return {
            priority: Queued(jobs, _seconds(backlog.get(f"pending_ms:{priority}")), _seconds(now_ms - float(since or now_ms)))
            for priority, jobs, since in zip(Priority, counts, created_ms, strict=True)
        }

    def _ask(self, ask: Callable[[Any], object]) -> list[Any]:
        """The replies to what `ask` puts into a pipeline, in one round trip."""
        with redis_away():
            pipe = self._redis.pipeline(transaction=False)
            ask(pipe)
            return list(pipe.execute())

    def _key(self, *parts: str) -> str:
        return ":".join((self._namespace, *parts))


def _waits(found: Mapping[str, str], priority: Priority) -> Waits:
    """What was counted under bounds that are not ours any more stays in the sum of those above it."""
    counted = {name.removeprefix(f"{priority}:"): int(value) for name, value in found.items() if name.startswith(f"{priority}:")}
    sum_ms = counted.pop("sum_ms", 0)
    bounds = (*map(float, WAIT_BOUNDS_S), math.inf)
    buckets = [(bound, sum(jobs for under, jobs in counted.items() if float(under) <= bound)) for bound in bounds]
    return Waits(tuple(buckets), sum_ms / 1000)


def _seconds(ms: str | float | None) -> float:
    return max(0.0, float(ms or 0) / 1000)
