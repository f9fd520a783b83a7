"""Bursts: jobs taken for one call to Modal, and the ledger of what calls cost, which no call begins without."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from core.crash_points import passed
from core.job_store import WAIT_BOUNDS_S, JobStore, Runner
from core.leased import milliseconds as _ms
from core.redis_steps import NAMESPACE, RedisClient, RedisSteps, redis_away

NEWEST = 0.3  # share of a new measurement in what is remembered
MICRO = 1_000_000  # the ledger counts in millionths of a dollar, whole ones: sums of floats drift


@dataclass(frozen=True)
class Caps:
    day_usd: float
    month_usd: float


@dataclass(frozen=True)
class Burst:
    """One call: the jobs that it took, each with its attempt, the fencing token. `called_at` is by Redis' clock."""

    id: str
    jobs: tuple[tuple[str, int], ...]
    reserved_usd: float
    deadline_s: float  # how long its container may work on it
    call_id: str | None = None  # None while it is not known whether the call was made
    called_at: float | None = None


@dataclass(frozen=True)
class OverCap:
    """Nothing was taken: what is spent and reserved leaves no room for the call."""

    day_usd: float
    month_usd: float


@dataclass(frozen=True)
class DayOfLedger:
    day: str  # as 2026-11-22, UTC
    spent_usd: float
    reserved_usd: float  # for calls under way
    calls: int
    jobs: int


@dataclass(frozen=True)
class BurstOutlook:
    """How the dispatcher sees it: whether Modal may be used, why not, and what its last decision rests on."""

    is_paused: bool
    reason: str  # of the last failure; empty once a call succeeded
    why: tuple[str, ...]


class Bursts:
    """Every method is atomic, and safe to repeat after a lost reply. All raise `StoreUnavailable` when Redis is away."""

    def __init__(self, redis: RedisClient, jobs: JobStore, namespace: str = NAMESPACE) -> None:
        self._redis, self._jobs, self._namespace = redis, jobs, namespace
        self._steps = RedisSteps(redis, namespace)

    def intend(
        self, burst_id: str, job_ids: Sequence[str], runner: Runner, *, lease_s: float, deadline_s: float, reserve_usd: float, caps: Caps
    ) -> Burst | OverCap | None:
        """Takes those of the jobs that are still pending, and reserves the call's cost; None when none of them is."""
        times, amounts = (_ms(lease_s), _ms(deadline_s)), (_micro(reserve_usd), _micro(caps.day_usd), _micro(caps.month_usd))
        outcome, *rest = self._steps.run(
            "burst", burst_id, runner.owner, runner.slot, *times, *amounts, self.today(), json.dumps(WAIT_BOUNDS_S), *job_ids
        )
        if outcome == "over":
            return OverCap(*(_usd(amount) for amount in rest))
        return self._read(burst_id) if rest else None

    def called(self, burst_id: str, call_id: str) -> bool:
        """Keeps the call's id; False once the burst is settled."""
        return bool(self._steps.run("burst_called", burst_id, call_id))

    def settle(self, burst_id: str, *, cost_usd: float | None) -> bool:
        """Ends it at its true cost, or at what was reserved when nobody can say; False when it was settled before."""
        return bool(self._steps.run("burst_settled", burst_id, "" if cost_usd is None else _micro(cost_usd)))

    def post(self, cost_usd: float) -> None:
        """What a call cost that no job was in; a repeat is posted again."""
        self._steps.run("burst_spent", self.today(), _micro(cost_usd))

    def committed_usd(self) -> tuple[float, float]:
        """Of today and of this month: what was spent, and what calls under way may still cost."""
        today = self.today()
        days = self.ledger(today[:7])
        of_day = sum(day.spent_usd + day.reserved_usd for day in days if day.day == today)
        return of_day, sum(day.spent_usd + day.reserved_usd for day in days)

    def measured(self) -> dict[str, float]:
        """What was measured of Modal, by name; older measurements fade."""
        with redis_away():
            return {name: float(value) for name, value in self._redis.hgetall(self._key("burst_figures")).items()}

    def measure(self, **values: float) -> None:
        """One more measurement of each. Only the leader measures."""
        before = self.measured()
        faded = {name: before.get(name, value) * (1 - NEWEST) + value * NEWEST for name, value in values.items()}
        if faded:
            with redis_away():
                self._redis.hset(self._key("burst_figures"), mapping=faded)
                passed("redis", "burst_figures")

    def tell(self, outlook: BurstOutlook, *, ttl_s: float) -> None:
        with redis_away():
            self._redis.set(self._key("burst_outlook"), json.dumps(asdict(outlook)), px=_ms(ttl_s))
            passed("redis", "burst_outlook")

    def outlook(self) -> BurstOutlook | None:
        """What the dispatcher made of it last; None when none leads, or bursts are off."""
        with redis_away():
            said = self._redis.get(self._key("burst_outlook"))
        return BurstOutlook(**{**json.loads(said), "why": tuple(json.loads(said)["why"])}) if said else None

    def today(self) -> str:
        """As 2026-11-22, UTC, by Redis' clock."""
        return datetime.fromtimestamp(self._jobs.clock_s(), UTC).date().isoformat()

    def under_way(self) -> tuple[Burst, ...]:
        """All that are not settled, oldest first."""
        with redis_away():
            ids = self._redis.zrange(self._key("bursts"), 0, -1)
        return tuple(burst for burst in map(self._read, ids) if burst)

    def ledger(self, month: str) -> tuple[DayOfLedger, ...]:
        """The days of a month, as 2026-11, on which a call was made, in order."""
        with redis_away():
            entries = self._redis.hgetall(self._key("ledger", month))
        days = sorted({entry.rpartition(":")[0] for entry in entries})
        return tuple(_day_of(day, {what: int(entries.get(f"{day}:{what}", 0)) for what in POSTED}) for day in days)

    def _read(self, burst_id: str) -> Burst | None:
        with redis_away():
            fields = self._redis.hgetall(self._key("burst", burst_id))
        if not fields:
            return None
        return Burst(
            id=burst_id,
            jobs=tuple((job_id, int(attempt)) for job_id, attempt in json.loads(fields["jobs"])),
            reserved_usd=_usd(fields["reserved"]),
            deadline_s=float(fields["deadline_ms"]) / 1000,
            call_id=fields.get("call_id"),
            called_at=float(fields["called_at"]) / 1000 if "called_at" in fields else None,
        )

    def _key(self, *parts: str) -> str:
        return ":".join((self._namespace, *parts))


POSTED = ("spent", "reserved", "calls", "jobs")


def _day_of(day: str, posted: dict[str, int]) -> DayOfLedger:
    return DayOfLedger(day, posted["spent"] / MICRO, posted["reserved"] / MICRO, posted["calls"], posted["jobs"])


def _micro(usd: float) -> int:
    return round(usd * MICRO)


def _usd(amount: str | int) -> float:
    return int(amount) / MICRO
