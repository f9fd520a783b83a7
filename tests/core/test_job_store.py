"""The contract of every atomic step, on a real server."""

import threading
import time

import pytest
from redis.exceptions import ResponseError

from core.errors import IdempotencyConflict, JobNotFound, QueueFull, StoreUnavailable
from core.figures import Figures
from core.job import JobFailure, JobState, Priority, Stage
from core.job_store import JobStore, Runner, Verdict
from core.redis_steps import RedisClient, connect
from core.transcript import Notice
from tests.conftest import RedisServer
from tests.core.jobs import ALICE, BOB, ROOM_S, beat, claim, new_job, submit


def test_a_submitted_job_waits_with_all_that_was_said_of_it(store: JobStore) -> None:
    job = submit(store, language="de", metadata={"ticket": [1, None]}, duration_s=12.5)
    assert job == store.get(job.id)
    assert (job.state, job.attempt, job.losses, job.duration_s, job.key_id) == (JobState.QUEUED, 0, 0, 12.5, "anonymous")
    assert job.options.language == "de"
    assert job.options.metadata == {"ticket": [1, None]}
    assert abs(job.created_at - time.time()) < 60


def test_submitting_the_same_job_id_again_changes_nothing(store: JobStore) -> None:
    job = new_job()
    assert store.submit(job, max_queued=100)[1]
    again, created = store.submit(job, max_queued=100)
    assert not created
    assert again.seq == 1
    assert store.backlog().queued_jobs == 1


def test_the_same_idempotency_key_and_request_give_the_first_job(store: JobStore) -> None:
    first, _ = store.submit(new_job(), max_queued=100, idempotency_key="k")
    again, created = store.submit(new_job(), max_queued=100, idempotency_key="k")
    assert (again.id, created) == (first.id, False)


def test_the_same_idempotency_key_with_another_request_is_a_conflict(store: JobStore) -> None:
    store.submit(new_job(), max_queued=100, idempotency_key="k")
    with pytest.raises(IdempotencyConflict, match="new key"):
        store.submit(new_job(language="de"), max_queued=100, idempotency_key="k")


def test_a_deleted_job_leaves_nothing_of_its_request_under_its_idempotency_key(store: JobStore, redis: RedisClient) -> None:
    new = new_job(source="https://me:password@example.org/a.mp3", initial_prompt="a secret")
    store.delete(store.submit(new, max_queued=100, idempotency_key="k")[0].id)
    assert redis.keys("spillway:idempotency:*") == []
    assert store.submit(new_job(), max_queued=100, idempotency_key="k")[1]


def test_a_deleted_job_does_not_forget_the_key_of_a_later_one(store: JobStore, redis: RedisClient) -> None:
    first, _ = store.submit(new_job(), max_queued=100, idempotency_key="k")
    redis.delete("spillway:idempotency:anonymous:k")  # its lifetime is over
    later, _ = store.submit(new_job(), max_queued=100, idempotency_key="k")
    store.delete(first.id)
    assert store.submit(new_job(), max_queued=100, idempotency_key="k")[0].id == later.id


def test_a_record_that_could_not_be_read_again_is_refused(store: JobStore, redis: RedisClient) -> None:
    with pytest.raises(ResponseError):
        store._steps.run("submit", "id", "not JSON", "a", "normal", 1000, "", "f", 1000, 9, 0, 0)
    assert redis.keys() == []


def test_idempotency_keys_of_two_clients_are_strangers(store: JobStore) -> None:
    store.submit(new_job(), max_queued=100, idempotency_key="k")
    assert store.submit(new_job(key_id="other"), max_queued=100, idempotency_key="k")[1]


def test_fifty_submits_with_one_idempotency_key_make_one_job(store: JobStore) -> None:
    ids: set[str] = set()
    threads = [
        threading.Thread(target=lambda: ids.add(store.submit(new_job(), max_queued=100, idempotency_key="k")[0].id)) for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 1
    assert store.backlog().queued_jobs == 1


def test_a_full_queue_refuses_and_writes_nothing(store: JobStore) -> None:
    submit(store)
    refused = new_job()
    with pytest.raises(QueueFull, match="1 jobs wait"):
        store.submit(refused, max_queued=1)
    with pytest.raises(JobNotFound):
        store.get(refused.id)


def test_an_unknown_job_is_not_found(store: JobStore) -> None:
    for act in (store.get, store.cancel, store.delete):
        with pytest.raises(JobNotFound, match="there is no job"):
            act("missing")


def test_claims_go_by_priority_then_by_age(store: JobStore) -> None:
    late, early = submit(store, priority=Priority.LOW), submit(store)
    urgent = submit(store, priority=Priority.HIGH)
    assert [claim(store).id for _ in range(3)] == [urgent.id, early.id, late.id]
    assert store.claim(ALICE, lease_s=60, fits_s=ROOM_S) is None


def test_claims_are_fair_between_keys(store: JobStore) -> None:
    for _ in range(4):
        submit(store, key_id="greedy")
    modest = submit(store, key_id="modest")
    assert modest.id in [claim(store).id for _ in range(2)]


def test_fairness_counts_audio_seconds_not_jobs(store: JobStore) -> None:
    for _ in range(2):
        submit(store, key_id="long", duration_s=100)
    for _ in range(12):
        submit(store, key_id="short", duration_s=10)
    served = [claim(store).key_id for _ in range(12)]
    assert served.count("long") == 2
    assert served.index("long") < 2


def test_who_always_sends_one_more_comes_no_oftener_to_its_turn_than_who_sent_many(store: JobStore) -> None:
    for _ in range(8):
        submit(store, key_id="many")
    served = []
    for _ in range(8):
        submit(store, key_id="always one")
        served.append(claim(store).key_id)
        if served[-1] == "many":
            store.cancel(next(job.id for job in store.page(key_id="always one", state=JobState.QUEUED)))
    assert 3 <= served.count("many") <= 5


def test_a_key_that_comes_back_late_owes_nothing_for_long_ago(store: JobStore, redis: RedisClient) -> None:
    submit(store, key_id="early", duration_s=100)
    claim(store)
    for _ in range(12):
        submit(store, key_id="steady", duration_s=10)
    for _ in range(11):
        claim(store)
    assert redis.zrange("spillway:left:normal", 0, -1) == []
    submit(store, key_id="early", duration_s=10)
    assert {claim(store).key_id for _ in range(2)} == {"early", "steady"}


def test_a_claim_raises_the_attempt_and_names_the_owner(store: JobStore) -> None:
    submit(store)
    job = claim(store)
    assert (job.state, job.attempt, job.owner) == (JobState.RUNNING, 1, "gpu0/boot-a")
    store.release(job)
    assert claim(store, BOB).attempt == 2


def test_a_repeated_claim_gives_the_same_job_not_another(store: JobStore) -> None:
    submit(store)
    submit(store)
    assert claim(store, claim_id="c1").id == claim(store, claim_id="c1").id
    assert store.backlog().queued_jobs == 1


def test_a_job_that_does_not_fit_is_not_passed_over(store: JobStore) -> None:
    submit(store, duration_s=10)
    long = submit(store, duration_s=5000)
    submit(store, duration_s=10)
    first = claim(store)
    assert store.claim(ALICE, lease_s=60, fits_s=100) is None
    store.succeed(first, result_key="r")
    assert claim(store, fits_s=100).id == long.id


def test_a_suspect_job_runs_alone(store: JobStore) -> None:
    job = submit(store)
    for _ in range(2):
        claim(store, lease_s=0)
        assert store.reclaim_expired(max_losses=9) == {job.id: JobState.QUEUED}
    submit(store)
    assert claim(store).id == job.id
    assert store.claim(ALICE, lease_s=60, fits_s=ROOM_S) is None
    assert claim(store, BOB).id != job.id


def test_a_suspect_job_waits_until_the_runner_is_empty(store: JobStore) -> None:
    calm = submit(store)
    held = claim(store)
    assert held.id == calm.id
    suspect = submit(store)
    for _ in range(2):
        claim(store, BOB, lease_s=0)
        store.reclaim_expired(max_losses=9)
    assert store.claim(ALICE, lease_s=60, fits_s=ROOM_S) is None
    store.succeed(held, result_key="r")
    assert claim(store).id == suspect.id


def test_a_beat_shows_stage_and_progress_and_never_goes_back(store: JobStore) -> None:
    submit(store)
    job = claim(store)
    assert beat(store, job, stage=Stage.ASR, progress=0.4) == Verdict.HELD
    assert beat(store, job, stage=Stage.ASR, progress=0.2) == Verdict.HELD
    seen = store.get(job.id)
    assert (seen.stage, seen.progress) == (Stage.ASR, 0.4)


def test_a_beat_without_news_writes_nothing(store: JobStore, redis: RedisClient) -> None:
    submit(store)
    job = claim(store)
    beat(store, job, stage=Stage.ASR, progress=0.4)
    before = redis.info("persistence")["aof_current_size"]
    for _ in range(10):
        beat(store, job, stage=Stage.ASR, progress=0.4)
    assert redis.info("persistence")["aof_current_size"] == before


def test_a_renewed_lease_outlives_its_first_expiry(store: JobStore) -> None:
    submit(store)
    job = claim(store, lease_s=0.2)
    assert beat(store, job, renew=True) == Verdict.HELD
    time.sleep(0.25)
    assert store.reclaim_expired(max_losses=3) == {}


def test_a_lost_runner_never_overwrites_the_winner(store: JobStore) -> None:
    submit(store)
    loser = claim(store, lease_s=0)
    store.reclaim_expired(max_losses=3)
    assert beat(store, loser) == Verdict.LOST
    winner = claim(store, BOB)
    assert store.succeed(loser, result_key="stale") is None
    assert store.fail(loser, JobFailure(code="x", message="y")) is None
    assert store.release(loser) is None
    assert not store.keep_product(loser, Stage.ASR, "stale")
    assert store.succeed(winner, result_key="good") == JobState.SUCCEEDED
    assert store.get(winner.id).result_key == "good"


def test_committing_twice_is_committing_once(store: JobStore, redis: RedisClient) -> None:
    submit(store)
    job = claim(store)
    assert store.succeed(job, result_key="r") == store.succeed(job, result_key="r") == JobState.SUCCEEDED
    assert Figures(redis).snapshot().totals["succeeded"] == 1


def test_success_keeps_result_warnings_and_the_measured_speed(store: JobStore) -> None:
    submit(store, duration_s=30)
    job = claim(store)
    time.sleep(0.02)
    store.succeed(job, result_key="r", warnings=[Notice(code="c", message="m")])
    done = store.get(job.id)
    assert (done.state, done.progress, done.stage, done.result_key) == (JobState.SUCCEEDED, 1.0, None, "r")
    assert done.warnings == (Notice(code="c", message="m"),)
    assert done.finished_at is not None
    assert (store.backlog().real_time_factor or 0) > 1


def test_an_expired_lease_brings_the_job_back_to_its_place(store: JobStore) -> None:
    first, second = submit(store), submit(store)
    claim(store, lease_s=0)
    assert store.reclaim_expired(max_losses=3) == {first.id: JobState.QUEUED}
    again = claim(store)
    assert (again.id, again.losses, again.attempt) == (first.id, 1, 2)
    assert claim(store).id == second.id


def test_a_job_that_keeps_killing_its_runners_is_set_aside(store: JobStore) -> None:
    job = submit(store)
    for _ in range(3):
        held = claim(store, lease_s=0)
        beat(store, held, stage=Stage.DIARIZATION, progress=0.5)
        outcome = store.reclaim_expired(max_losses=3)
    assert outcome == {job.id: JobState.FAILED}
    failed = store.get(job.id)
    assert failed.error is not None
    assert failed.error.code == "worker_lost"
    assert "3 times" in failed.error.message
    assert "diarization" in failed.error.message


def test_a_reborn_worker_takes_back_what_its_predecessor_held_and_nothing_else(store: JobStore) -> None:
    mine, theirs = submit(store), submit(store)
    claim(store, Runner("gpu0", "old"))
    claim(store, BOB)
    assert store.reclaim_slot(Runner("gpu0", "new"), max_losses=3) == {mine.id: JobState.QUEUED}
    assert store.get(theirs.id).state == JobState.RUNNING
    assert store.get(mine.id).losses == 1


def test_a_hand_back_counts_no_loss(store: JobStore) -> None:
    submit(store)
    assert store.release(claim(store)) == JobState.QUEUED
    job = claim(store)
    assert (job.losses, job.attempt) == (0, 2)


def test_a_waiting_job_is_cancelled_at_once(store: JobStore) -> None:
    job = store.cancel(submit(store).id)
    assert job.state == JobState.CANCELLED
    assert store.claim(ALICE, lease_s=60, fits_s=ROOM_S) is None
    assert store.backlog().queued_audio_s == 0


def test_a_running_job_hears_of_its_cancel_at_the_next_beat(store: JobStore) -> None:
    submit(store)
    job = claim(store)
    assert store.cancel(job.id).state == JobState.RUNNING
    assert beat(store, job) == Verdict.CANCEL
    assert store.end_cancelled(job) == JobState.CANCELLED


@pytest.mark.parametrize("how", ["succeed", "fail", "release", "lose"])
def test_a_cancel_that_came_first_wins(store: JobStore, how: str) -> None:
    submit(store)
    job = claim(store, lease_s=0)
    store.cancel(job.id)
    {
        "succeed": lambda: store.succeed(job, result_key="r"),
        "fail": lambda: store.fail(job, JobFailure(code="c", message="m")),
        "release": lambda: store.release(job),
        "lose": lambda: store.reclaim_expired(max_losses=3),
    }[how]()
    ended = store.get(job.id)
    assert (ended.state, ended.result_key, ended.error) == (JobState.CANCELLED, None, None)


def test_cancelling_an_ended_job_changes_nothing(store: JobStore) -> None:
    submit(store)
    store.succeed(claim(store), result_key="r")
    assert store.cancel(store.page().jobs[0].id).state == JobState.SUCCEEDED


@pytest.mark.parametrize("ending", [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED])
def test_every_ending_puts_its_deliveries_into_the_outbox_in_the_same_step(store: JobStore, redis: RedisClient, ending: JobState) -> None:
    job = submit(store, deliveries=({"kind": "webhook", "url": "https://example.org"},))
    held = claim(store)
    if ending is JobState.SUCCEEDED:
        store.succeed(held, result_key="r")
    elif ending is JobState.FAILED:
        store.fail(held, JobFailure(code="c", message="m"))
    else:
        store.end_cancelled(held)
    assert redis.zrange("spillway:outbox", 0, -1) == [f"{job.id}:1"]


def test_products_are_kept_for_the_next_attempt(store: JobStore) -> None:
    submit(store)
    job = claim(store)
    assert store.keep_product(job, Stage.ASR, "jobs/x/products/1-asr.json")
    store.release(job)
    assert claim(store, BOB).products == {"asr": "jobs/x/products/1-asr.json"}


def test_a_deleted_job_is_gone_and_its_runner_finds_out(store: JobStore) -> None:
    submit(store)
    job = claim(store)
    store.delete(job.id)
    assert beat(store, job) == Verdict.LOST
    assert store.succeed(job, result_key="r") is None
    assert store.page().jobs == []
    backlog = store.backlog()
    assert (backlog.queued_jobs, backlog.running_jobs, backlog.running_audio_s) == (0, 0, 0)


def test_a_server_that_is_away_is_said_to_be_away() -> None:
    store = JobStore(connect("redis://127.0.0.1:1/0", retries=0))
    assert store.fault() == "Redis does not answer"
    with pytest.raises(StoreUnavailable, match="Redis does not answer"):
        store.get("x")
    with pytest.raises(StoreUnavailable):
        store.submit(new_job(), max_queued=1)


def test_a_beat_waits_for_no_disk(store: JobStore, redis: RedisClient) -> None:
    submit(store)
    job, before = claim(store), redis.info("persistence")["aof_current_size"]
    assert beat(store, job, stage=Stage.ASR, progress=0.5, renew=True) == Verdict.HELD
    assert (store.get(job.id).stage, store.get(job.id).progress) == (Stage.ASR, 0.5)
    assert redis.info("persistence")["aof_current_size"] == before


def test_a_beat_tells_a_redis_that_was_restarted_what_it_forgot(redis_server: RedisServer) -> None:
    with connect(redis_server.url) as redis:
        store = JobStore(redis)
        submit(store)
        job = claim(store)
        beat(store, job, stage=Stage.ASR, progress=0.5, renew=True)
        redis_server.stop()
        redis_server.start()
        assert beat(store, job, stage=Stage.ASR, progress=0.6, renew=True) == Verdict.HELD
        assert (store.get(job.id).stage, store.get(job.id).progress) == (Stage.ASR, 0.6)
        assert store.succeed(job, result_key="r") == JobState.SUCCEEDED
