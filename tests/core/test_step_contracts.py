"""What every atomic step promises, whichever it is: one row for each file of core/lua."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from redis.exceptions import ResponseError

from core.bursts import Burst, Bursts, Caps
from core.fetches import Fetches
from core.job import Job, JobFailure
from core.job_store import JobStore, Runner
from core.leased import Lease
from core.outbox import Delivery, Outbox
from core.redis_steps import COUNTS, NAMESPACE, STEPS, RedisClient, RedisSteps
from tests.conftest import ROOT
from tests.core.jobs import ALICE, BOB, claim, new_job, submit
from tests.core.recorded import Recorded

ERROR = JobFailure(code="c", message="m").model_dump_json()
WEBHOOK = {"kind": "webhook", "target": "https://example.org/", "host": "example.org"}
ME = Lease("me", 60, 3)
NEW = new_job(key_id="a", deliveries=(WEBHOOK,))


@dataclass(frozen=True)
class World:
    """One of each: a job that waits, runs, is burst, fell silent, is fetched, and a delivery that is sent; and one more that is due."""

    running: Job
    waiting: Job
    fetching: Job
    sending: Delivery
    ended: Job
    burst: Burst


def world(redis: RedisClient) -> World:
    redis.flushall()
    store = JobStore(redis)
    fetches, outbox = Fetches(redis, store), Outbox(redis, store)
    for _ in range(2):
        submit(store, key_id="a", deliveries=(WEBHOOK,))
        store.fail(claim(store), JobFailure(code="c", message="m"))
        submit(store, key_id="a", source="https://example.org/a.mp3", deliveries=(WEBHOOK,))
    waiting = [submit(store, key_id="a", deliveries=(WEBHOOK,)) for _ in range(4)]
    burst = Bursts(redis, store).intend(
        "early", [waiting[-1].id], Runner("modal", "x"), lease_s=60, deadline_s=180, reserve_usd=0.1, caps=Caps(1, 25)
    )
    assert isinstance(burst, Burst)
    running, _ = claim(store), claim(store, BOB, lease_s=0)
    fetching, sending = fetches.claim(ME), outbox.claim(ME)
    assert fetching is not None
    assert sending is not None
    assert store.lead("me", ttl_s=60)
    return World(running, waiting[2], fetching, sending, store.get(sending.job.id), burst)


CALLS: dict[str, Callable[[World], list[object]]] = {
    "submit": lambda _: [NEW.id, NEW.model_dump_json(), "a", "normal", 30_000, "key", "fingerprint", 60_000, 100, 100, 0],
    "claim": lambda _: ["gpu2/b", "gpu2", 60_000, "claim", 100_000, 2, "[1, 5, 15]"],
    "beat": lambda is_: [60_000, 0, is_.running.id, is_.running.attempt, "asr", 0.5],
    "keep": lambda is_: [is_.running.id, is_.running.attempt, "asr", "key", "0" * 64],
    "finish": lambda is_: [is_.running.id, is_.running.attempt, "failed", '{"asr": 5}', "error", ERROR],
    "cancel": lambda is_: [is_.running.id],
    "release": lambda is_: [is_.running.id, is_.running.attempt],
    "retry": lambda is_: [is_.running.id, is_.running.attempt, 1, ERROR],
    "reclaim_expired": lambda _: [3, 100],
    "reclaim_slot": lambda _: [ALICE.slot, "gpu0/next", 3],
    "delete": lambda is_: [is_.running.id],
    "claim_fetch": lambda _: ["me", 60_000, 3, 0.5, 2, "a", 1],
    "beat_fetches": lambda is_: [60_000, 0, is_.fetching.id, is_.fetching.fetch],
    "fetched": lambda is_: [is_.fetching.id, is_.fetching.fetch, "{}", 20_000],
    "retry_fetch": lambda is_: [is_.fetching.id, is_.fetching.fetch, 1_000, 1, ERROR],
    "release_fetch": lambda is_: [is_.fetching.id, is_.fetching.fetch, 1_000],
    "claim_delivery": lambda _: ["me", 60_000, 3, 0.5, "busy.example.org"],
    "beat_deliveries": lambda is_: [60_000, 0, is_.sending.id, is_.sending.token],
    "end_delivery": lambda is_: [is_.sending.id, is_.sending.token, "pending", '{"status": 500}', 1_000, 60_000],
    "release_delivery": lambda is_: [is_.sending.id, is_.sending.token],
    "count_worker": lambda _: ["gpu0", "boot", 60_000, 1, 2, "batches", 5],
    "unfinished": lambda _: ["a", 1],
    "spend": lambda _: ["a", 10, 60_000],
    "probe": lambda _: [],
    "lead": lambda _: ["me", 5_000],
    "resign": lambda _: ["me"],
    "expired": lambda _: ["results", 0, 10, 60_000],
    "let_go": lambda is_: ["results", is_.ended.id],
    "prune_workers": lambda _: [],
    "burst": lambda is_: ["b", "modal/x", "modal", 60_000, 180_000, 50, 1_000, 5_000, "2026-11-22", "[1, 5]", is_.waiting.id],
    "burst_called": lambda is_: [is_.burst.id, "fc-1"],
    "burst_settled": lambda is_: [is_.burst.id, 70],
    "burst_spent": lambda _: ["2026-11-22", 70],
}
TOKEN_AT = {"keep": 1, "finish": 1, "release": 1, "retry": 1, "fetched": 1, "retry_fetch": 1, "release_fetch": 1, "end_delivery": 1}
TOKEN_AT |= {"release_delivery": 1, "beat": 3, "beat_fetches": 3, "beat_deliveries": 3}
TAKES_ANOTHER = {
    "claim_fetch",
    "claim_delivery",
    "spend",
    "burst_spent",
}  # a lost reply costs one more, which comes back when its lease runs out
SAID_ONCE = {"release", "release_fetch", "release_delivery"}  # the second time it is nobody's any more


def test_every_step_has_its_row_here() -> None:
    files = {path.stem for path in (ROOT / "core" / "lua").glob("*.lua")} - {"prelude"}
    assert files == {*STEPS, *COUNTS} == set(CALLS)


@pytest.mark.parametrize("step", CALLS)
def test_a_step_that_cannot_read_what_it_is_told_changes_nothing(quick_redis: RedisClient, step: str) -> None:
    steps, is_ = RedisSteps(quick_redis, NAMESPACE), world(quick_redis)
    for place in range(len(CALLS[step](is_))):
        for broken in ("{", "nan", "1.5", "1e300"):
            arguments = CALLS[step](is_)
            arguments[place] = broken
            before = Recorded(quick_redis)
            try:
                steps.run(step, *arguments)
            except ResponseError:
                assert Recorded(quick_redis) == before, f"argument {place + 1} is {broken!r}"
            else:  # whatever it is, it may be called so
                is_ = world(quick_redis)


@pytest.mark.parametrize("step", sorted(CALLS.keys() - TAKES_ANOTHER))
def test_a_step_whose_reply_got_lost_is_done_once(quick_redis: RedisClient, step: str) -> None:
    steps, is_ = RedisSteps(quick_redis, NAMESPACE), world(quick_redis)
    first = steps.run(step, *CALLS[step](is_))
    after = Recorded(quick_redis)
    again = steps.run(step, *CALLS[step](is_))
    assert Recorded(quick_redis) == after
    answers = {"submit": ["existing", NEW.id], "reclaim_expired": [], "reclaim_slot": [], "delete": 0, "burst_settled": 0, "resign": 0}
    answers |= dict.fromkeys(SAID_ONCE, "lost")
    assert again == answers.get(step, first)


@pytest.mark.parametrize("step", TOKEN_AT)
@pytest.mark.parametrize("off_by", [-1, 1])
def test_a_take_that_is_over_changes_nothing(quick_redis: RedisClient, step: str, off_by: int) -> None:
    steps, is_ = RedisSteps(quick_redis, NAMESPACE), world(quick_redis)
    arguments = CALLS[step](is_)
    arguments[TOKEN_AT[step]] = int(str(arguments[TOKEN_AT[step]])) + off_by
    before = Recorded(quick_redis)
    assert steps.run(step, *arguments) in ("lost", ["lost"])
    assert Recorded(quick_redis) == before


@pytest.mark.parametrize("step", [*TOKEN_AT, "cancel", "delete"])
def test_a_step_for_a_job_that_is_not_there_makes_none(quick_redis: RedisClient, step: str) -> None:
    steps, is_ = RedisSteps(quick_redis, NAMESPACE), world(quick_redis)
    JobStore(quick_redis).delete(is_.running.id)
    for job_id in (is_.fetching.id, is_.sending.job.id):
        JobStore(quick_redis).delete(job_id)
    before = Recorded(quick_redis)
    assert steps.run(step, *CALLS[step](is_)) in ("lost", ["lost"], None, 0)
    assert Recorded(quick_redis) == before


def test_the_world_of_these_tests_is_whole(quick_redis: RedisClient) -> None:
    world(quick_redis)
    Recorded(quick_redis).check()
