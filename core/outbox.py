"""What ended jobs owe to the outside: taken by lease and fencing token as sources are, tried again and again until taken or given up."""

import json
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from core.errors import JobNotFound, RecordBroken
from core.job import Job
from core.job_store import JobStore, Verdict
from core.leased import Lease, beat
from core.leased import milliseconds as _ms
from core.redis_steps import NAMESPACE, RedisClient, RedisSteps, redis_away


class DeliveryKind(StrEnum):
    WEBHOOK = "webhook"
    OUTPUT = "output"


class DeliveryState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"  # given up
    STOPPED = "stopped"  # its receiver wants no more of it, or there is nothing to send


class Owed(BaseModel):
    """One of `NewJob.deliveries`: what is written at submit and put into the outbox when the job ends."""

    model_config = ConfigDict(frozen=True)

    kind: DeliveryKind
    target: str  # a URL for a webhook, a gs:// prefix for output
    host: str  # of the target: so many at once and no more go to each


class Answer(BaseModel):
    """How one try ended."""

    model_config = ConfigDict(frozen=True)

    status: int | None = None  # of the HTTP answer, where there was one
    error: str | None = None


class Attempt(Answer):
    at: float  # seconds since the epoch, by Redis' clock


@dataclass(frozen=True)
class Delivery:
    id: str  # the same over all tries: what receivers tell repetitions by
    job: Job
    owed: Owed
    state: DeliveryState
    token: int  # the fencing token: raised by every take
    attempts: tuple[Attempt, ...]
    next_try_at: float | None  # None while it is tried, before the job's end, and once there is no next


class Outbox:
    """Every method is atomic, and safe to repeat after a lost reply. All raise `StoreUnavailable` when Redis is away.

    A delivery given by `claim` carries its token; whoever holds an older one gets None.
    """

    def __init__(self, redis: RedisClient, jobs: JobStore, namespace: str = NAMESPACE) -> None:
        self._redis, self._jobs, self._namespace = redis, jobs, namespace
        self._steps = RedisSteps(redis, namespace)

    def claim(self, lease: Lease, *, busy_hosts: Collection[str] = ()) -> Delivery | None:
        """The delivery that is due longest, of those whose host is not busy. Where very many are due it is one of them by chance."""
        claimed = self._steps.run("claim_delivery", lease.owner, _ms(lease.lease_s), lease.max_losses, random.random(), *busy_hosts)
        if not claimed:
            return None
        job_id, _, number = str(claimed[0]).rpartition(":")
        try:
            return self.of_job(self._jobs.get(job_id))[int(number) - 1]
        except JobNotFound:  # deleted in the same moment
            return None
        except RecordBroken as error:
            self._steps.run(
                "end_delivery", *claimed, DeliveryState.FAILED, Answer(error=str(error)).model_dump_json(exclude_none=True), 0, 0
            )
            return None

    def beat(self, held: Sequence[Delivery], *, lease_s: float, renew: bool) -> tuple[bool, ...]:
        """Whether each is still held: not once its job was deleted, or it was taken by another."""
        return beat(self._steps, "beat_deliveries", ((each.id, each.token) for each in held), lease_s=lease_s, renew=renew)

    def end(self, delivery: Delivery, state: DeliveryState, answer: Answer) -> DeliveryState | None:
        """The state that a try ended in; None when the delivery was lost."""
        return self._end_try(delivery, state, answer)

    def retry(self, delivery: Delivery, answer: Answer, *, pause_s: float, patience_s: float) -> DeliveryState | None:
        """Once more after a pause, the last time `patience_s` after the job's end; then it is given up. None when it was lost."""
        return self._end_try(delivery, DeliveryState.PENDING, answer, pause_s=pause_s, patience_s=patience_s)

    def release(self, delivery: Delivery) -> DeliveryState | None:
        """Back to its turn, no try counted; None when it was lost."""
        return _state(self._steps.run("release_delivery", delivery.id, delivery.token))

    def of_job(self, job: Job) -> tuple[Delivery, ...]:
        """Also before the job has ended: then none has been tried."""
        ids = [f"{job.id}:{number}" for number in range(1, len(job.deliveries) + 1)]
        with redis_away():
            pipe = self._redis.pipeline(transaction=True)
            for delivery_id in ids:
                pipe.hgetall(f"{self._namespace}:delivery:{delivery_id}").zscore(f"{self._namespace}:outbox", delivery_id)
            found = pipe.execute()
        owed = map(Owed.model_validate, job.deliveries)
        return tuple(_delivery(*given, job) for given in zip(ids, owed, found[::2], found[1::2], strict=True))

    def _end_try(
        self, delivery: Delivery, state: DeliveryState, answer: Answer, *, pause_s: float = 0.0, patience_s: float = 0.0
    ) -> DeliveryState | None:
        said = answer.model_dump_json(include=set(Answer.model_fields), exclude_none=True)
        return _state(self._steps.run("end_delivery", delivery.id, delivery.token, state, said, _ms(pause_s), _ms(patience_s)))


def _delivery(delivery_id: str, owed: Owed, fields: Mapping[str, str], due_ms: float | None, job: Job) -> Delivery:
    return Delivery(
        id=delivery_id,
        job=job,
        owed=owed,
        state=DeliveryState(fields.get("outcome", DeliveryState.PENDING)),
        token=int(fields.get("take", 0)),
        attempts=tuple(_attempts(fields)),
        next_try_at=None if due_ms is None or "owner" in fields else due_ms / 1000,
    )


def _attempts(fields: Mapping[str, str]) -> Iterable[Attempt]:
    for number in range(1, int(fields.get("tries", 0)) + 1):
        said: dict[str, Any] = json.loads(fields[f"try:{number}"])
        yield Attempt(at=said.pop("at_ms") / 1000, **said)


def _state(reply: str) -> DeliveryState | None:
    return None if reply == Verdict.LOST else DeliveryState(reply)
