"""All that is in Redis at one moment, and what must hold in it whatever happened before."""

import json
from collections.abc import Iterable
from typing import Any

from core.job import JobState, Priority
from core.redis_steps import NAMESPACE, RedisClient

DUMP = """
local all = {}
for n, key in ipairs(redis.call('KEYS', KEYS[1] .. ':*')) do
  local kind = redis.call('TYPE', key).ok
  local commands = { string = { 'GET', key }, hash = { 'HGETALL', key }, set = { 'SMEMBERS', key },
    zset = { 'ZRANGE', key, 0, -1, 'WITHSCORES' } }
  all[n] = { key, kind, redis.call(unpack(commands[kind])), redis.call('PTTL', key) }
end
return { cjson.encode(all), redis.call('TIME')[1] }
"""
LONE_KEYS = {
    "seq",
    "counters",
    "totals",
    "speed",
    "busy_since",
    "waits",
    "virtual_time",
    "bursts",
    *(f"left:{priority}" for priority in Priority),
}
KEPT = ("inputs", "products", "results")
SOON_MS = 10_000  # leases are long here, and what is due lies behind: between them there is nothing


class Recorded:
    def __init__(self, redis: RedisClient) -> None:
        found, seconds = redis.eval(DUMP, 1, NAMESPACE)
        self.soon_ms = int(seconds) * 1000 + SOON_MS
        self.all: dict[str, Any] = {}
        self.mortal: set[str] = set()
        for key, kind, value, ttl_ms in json.loads(found):
            name = key.removeprefix(f"{NAMESPACE}:")
            self.all[name] = _read(kind, value)
            if ttl_ms > 0:
                self.mortal.add(name)
        self.jobs: dict[str, dict[str, str]] = self.under("job:")
        self.deliveries: dict[str, dict[str, str]] = self.under("delivery:")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recorded) and self.all == other.all

    def under(self, prefix: str) -> dict[str, Any]:
        return {name.removeprefix(prefix): value for name, value in self.all.items() if name.startswith(prefix)}

    def places(self, name: str) -> dict[str, float]:
        """A sorted set, first come first."""
        found: dict[str, float] = self.all.get(name, {})
        return found

    def members(self, name: str) -> set[str]:
        return set(self.all.get(name, ()))

    def due(self, name: str) -> list[str]:
        """Those of `fetching`, `outbox` or `leases` whose moment has come."""
        return [member for member, score in self.places(name).items() if score < self.soon_ms]

    def check(self) -> None:
        """Raises `AssertionError`: each job is in one place, every total is what a recount gives, nothing else is there."""
        self.check_jobs()
        self._check_deliveries()
        self._check_keys()

    def check_jobs(self) -> None:
        """As far as jobs, their places and their totals go."""
        for job_id, job in self.jobs.items():
            self._check_job(job_id, job)
        self._check_places()
        self._check_totals()

    def _check_job(self, job_id: str, job: dict[str, str]) -> None:
        state, lane = JobState(job["state"]), f"lane:{job['priority']}:{job['key_id']}"
        is_fetching = job_id in self.places("fetching")
        is_running, is_pending = state is JobState.RUNNING, state is JobState.QUEUED and not is_fetching
        seq = float(job["seq"]) if is_pending else None
        assert self.places(f"pending:{job['priority']}").get(job_id) == self.places(lane).get(job_id) == seq
        assert not is_fetching or (state, job["stage"]) == (JobState.QUEUED, "fetching")
        assert (job_id in self.places("leases")) == is_running == ("owner" in job) == ("slot" in job)
        assert not is_running or job["owner"].startswith(f"{job['slot']}/")
        assert {slot for slot, held in self.under("slot:").items() if job_id in held} == ({job["slot"]} if is_running else set())
        assert state.is_terminal == ("finished_at" in job) == (job_id not in self.members(f"unfinished:{job['key_id']}"))
        assert ("result_key" in job) <= (state in (JobState.SUCCEEDED, JobState.FAILED))
        assert (state is JobState.SUCCEEDED) <= ("result_key" in job)
        assert ("error" in job) == (state is JobState.FAILED)
        assert not (state.is_terminal and "stage" in job)
        assert all((job_id in self.places(f"kept:{what}")) <= state.is_terminal for what in KEPT)
        assert (job_id in self.places("kept:results")) == state.is_terminal

    def _check_places(self) -> None:
        ids = set(self.jobs)
        assert set(self.places("jobs")) == ids
        for kind in ("jobs:", "unfinished:", "pending:", "lane:", "slot:", "kept:"):
            assert {member for held in self.under(kind).values() for member in held} <= ids
        assert set(self.places("leases")) | set(self.places("fetching")) <= ids
        for priority in Priority:
            lanes = set(self.under(f"lane:{priority}:"))
            assert set(self.places(f"lanes:{priority}")) == lanes
            assert not lanes & set(self.places(f"left:{priority}"))
            served = float(self.all.get("virtual_time", {}).get(priority, 0))
            assert all(turn >= served for turn in self.places(f"lanes:{priority}").values())

    def _check_totals(self) -> None:
        totals = {name: int(ms) for name, ms in self.all.get("totals", {}).items() if int(ms)}
        recounted = {f"pending_ms:{priority}": self._work_ms(self.places(f"pending:{priority}")) for priority in Priority}
        recounted["running_ms"] = self._work_ms(self.places("leases"))
        assert totals == {name: ms for name, ms in recounted.items() if ms}
        assert set(self.all.get("busy_since", {})) == set(self.under("slot:"))

    def _work_ms(self, ids: Iterable[str]) -> int:
        return sum(int(self.jobs[job_id]["work_ms"]) for job_id in ids)

    def _check_deliveries(self) -> None:
        owed = {
            f"{job_id}:{n}": json.loads(job["finished_at"])
            for job_id, job in self.jobs.items()
            if "finished_at" in job
            for n in range(1, len(json.loads(job["fixed"])["deliveries"]) + 1)
        }
        assert set(self.deliveries) == set(owed)
        unsettled = {delivery_id: owed[delivery_id] for delivery_id, found in self.deliveries.items() if "outcome" not in found}
        assert self.places("undelivered") == unsettled
        assert set(self.places("outbox")) == set(unsettled)
        assert all(found["state"] == self.jobs[found["job"]]["state"] for found in self.deliveries.values())

    def _check_keys(self) -> None:
        for name, remembered in self.under("idempotency:").items():
            job = self.jobs[remembered["job"]]
            assert name == f"{job['key_id']}:{job['idempotency']}"
        assert self.mortal == {name for name in self.all if name.startswith(("idempotency:", "claim:", "leader"))}
        expected = LONE_KEYS | self.mortal | {f"job:{job_id}" for job_id in self.jobs} | {f"delivery:{id_}" for id_ in self.deliveries}
        expected |= {"jobs", "leases", "fetching", "outbox", "undelivered", *(f"lanes:{priority}" for priority in Priority)}
        expected |= {f"kept:{what}" for what in KEPT}
        for job in self.jobs.values():
            expected |= {f"{kind}:{job['key_id']}" for kind in ("jobs", "unfinished")}
            expected |= {f"pending:{job['priority']}", f"lane:{job['priority']}:{job['key_id']}", f"slot:{job.get('slot')}"}
        expected |= {f"burst:{burst_id}" for burst_id in self.places("bursts")} | {f"ledger:{month}" for month in self.under("ledger:")}
        assert set(self.all) <= expected
        assert set(self.under("burst:")) == set(self.places("bursts"))


def _read(kind: str, value: Any) -> Any:
    if kind == "hash":
        return dict(zip(value[::2], value[1::2], strict=True))
    if kind == "zset":
        return {member: float(score) for member, score in zip(value[::2], value[1::2], strict=True)}
    return set(value) if kind == "set" else value
