"""Sources that wait to be fetched: taken by lease and fencing token as jobs are by runners, so that a fetch is done once."""

import random
from collections.abc import Iterable, Mapping, Sequence

from core.errors import JobNotFound
from core.job import Fetched, Job, JobFailure, JobState
from core.job_store import JobStore, Verdict
from core.leased import Lease, beat
from core.leased import milliseconds as _ms
from core.redis_steps import NAMESPACE, RedisClient, RedisSteps, redis_away

NONE: Mapping[str, int] = {}


class Fetches:
    """Every method is atomic, and safe to repeat after a lost reply. All raise `StoreUnavailable` when Redis is away.

    A job given by `claim` carries its token; whoever holds an older one gets None.
    """

    def __init__(self, redis: RedisClient, jobs: JobStore, namespace: str = NAMESPACE) -> None:
        self._redis, self._jobs, self._key = redis, jobs, f"{namespace}:fetching"
        self._steps = RedisSteps(redis, namespace)

    def claim(self, lease: Lease, *, under_way: Mapping[str, int] = NONE, most_of_key: int = 0) -> Job | None:
        """A job whose source is to be fetched; its `fetch` is the fencing token.

        Of the API key that has the fewest `under_way`, the one that has waited longest; none of a key that has `most_of_key`, 0 for
        no limit. Where very many wait it is one of them by chance.
        """
        counts = [value for pair in under_way.items() for value in pair]
        claimed = self._steps.run("claim_fetch", lease.owner, _ms(lease.lease_s), lease.max_losses, random.random(), most_of_key, *counts)
        try:
            return self._jobs.get(str(claimed[0])) if claimed else None
        except JobNotFound:  # deleted in the same moment
            return None

    def beat(self, held: Sequence[Job], *, lease_s: float, renew: bool) -> tuple[bool, ...]:
        """Whether each is still held: not once its job was cancelled, deleted, or taken by another."""
        return beat(self._steps, "beat_fetches", ((job.id, job.fetch) for job in held), lease_s=lease_s, renew=renew)

    def complete(self, job: Job, fetched: Fetched) -> JobState | None:
        """Makes the job pending, at the place that it got when it was submitted; None when the fetch was lost."""
        work_s = job.model_copy(update=fetched.model_dump()).work_s
        return _state(self._steps.run("fetched", job.id, job.fetch, fetched.model_dump_json(), _ms(work_s)))

    def retry(self, job: Job, failure: JobFailure, *, pause_s: float, max_failures: int) -> JobState | None:
        """Fetched once more after a pause, or failed for good when it failed `max_failures` times; None when it was lost."""
        return _state(self._steps.run("retry_fetch", job.id, job.fetch, _ms(pause_s), max_failures, failure.model_dump_json()))

    def fail(self, job: Job, failure: JobFailure) -> JobState | None:
        return self.retry(job, failure, pause_s=0, max_failures=0)

    def release(self, job: Job, *, pause_s: float = 0.0) -> JobState | None:
        """Back to its turn after a pause, no failure counted; None when it was lost."""
        return _state(self._steps.run("release_fetch", job.id, job.fetch, _ms(pause_s)))

    def waiting(self, job_ids: Iterable[str]) -> set[str]:
        """Those of them that still are to be fetched, whoever holds them."""
        asked = list(job_ids)
        if not asked:
            return set()
        with redis_away():
            places = self._redis.zmscore(self._key, asked)
        return {job_id for job_id, place in zip(asked, places, strict=True) if place is not None}


def _state(reply: str) -> JobState | None:
    return None if reply == Verdict.LOST else JobState(reply)
