"""What clients go through with Spillway, each with the end that it must have however often a process dies on the way."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from core.file_store import result_key
from core.render import Format
from core.retention import Kept
from tests.conftest import wait_for
from tests.crash.stack import PATIENCE_S, POLL_S, CrashStack, attempt_of
from tools.crash_orders import Moment

Life = Callable[[CrashStack], None]
STEADY_S = 1.5  # longer than a beat, also when it is halved


def uploaded(stack: CrashStack) -> None:
    _ends_with_one_result(stack, stack.send()["id"])


def run_for_a_while(stack: CrashStack) -> None:
    _ends_with_one_result(stack, stack.send(script={"seconds": STEADY_S / 2})["id"])


def begun_again(stack: CrashStack) -> None:
    """The worker, from its first step on."""
    stack.terminate("worker")
    uploaded(stack)


def repeated(stack: CrashStack) -> None:
    key = uuid4().hex
    first = stack.send(key=key)
    assert stack.send(key=key)["id"] == first["id"]
    _ends_with_one_result(stack, first["id"])


def refused(stack: CrashStack) -> None:
    answer = stack.ask("POST", "/v1/jobs", files={"file": ("talk.wav", b"no recording")}, headers={"Idempotency-Key": uuid4().hex})
    assert answer.status_code == 422, answer.text


def looked_at(stack: CrashStack) -> None:
    wait_for(lambda: stack.ask("GET", "/readyz").status_code == 200, "the service to be ready", every_s=POLL_S)


def fetched(stack: CrashStack) -> None:
    _ends_with_one_result(stack, stack.name("/talk.wav")["id"])


def fetched_in_vain(stack: CrashStack) -> None:
    _fails(stack, stack.name("/missing")["id"], "source_unreachable")


def fetched_noise(stack: CrashStack) -> None:
    _fails(stack, stack.name("/noise")["id"], "invalid_media")


def cancelled_while_it_is_fetched(stack: CrashStack) -> None:
    job = stack.name("/endless.wav")
    wait_for(lambda: stack.was_asked(job["id"]), "the source to be asked for", every_s=POLL_S)
    stack.ask("POST", f"/v1/jobs/{job['id']}/cancel")
    assert stack.ended(job["id"])["state"] == "cancelled"


def cancelled_once_it_was_fetched(stack: CrashStack) -> None:
    """Too late for the fetch to hear of it: what it stored is nobody's."""
    while_frozen = stack.freeze(Moment("dispatcher", "kept:fetched"))
    job = stack.name("/talk.wav")["id"]
    while_frozen(lambda: stack.ask("POST", f"/v1/jobs/{job}/cancel"))
    assert stack.ended(job)["state"] == "cancelled"


def deleted_once_it_was_fetched(stack: CrashStack) -> None:
    while_frozen = stack.freeze(Moment("dispatcher", "kept:fetched"))
    job = stack.name("/talk.wav")["id"]
    while_frozen(lambda: _is_deleted(stack, job))


def cancelled_while_it_runs(stack: CrashStack) -> None:
    job = _running(stack, script={"seconds": 20})
    stack.ask("POST", f"/v1/jobs/{job}/cancel")
    assert stack.ended(job)["state"] == "cancelled"


def deleted(stack: CrashStack) -> None:
    job = stack.send()["id"]
    _ends_with_one_result(stack, job)
    _is_deleted(stack, job)


def deleted_while_it_runs(stack: CrashStack) -> None:
    _is_deleted(stack, _running(stack, script={"seconds": 20}))


def broken(stack: CrashStack) -> None:
    _fails(stack, stack.send(script={"then": "break"})["id"], "engine_failed")
    _ends_with_one_result(stack, stack.send()["id"])  # a worker whose every job breaks would end itself


def lost(stack: CrashStack) -> None:
    job = stack.send(script={"then": "segfault", "times": 1})["id"]
    _ends_with_one_result(stack, job)
    assert stack.job(job)["losses"] >= 1


def stopped(stack: CrashStack) -> None:
    """The worker, in the middle of a job, which it hands back."""
    job = _running(stack, script={"seconds": STEADY_S})
    stack.terminate("worker")
    _ends_with_one_result(stack, job)


def frozen_before_its_commit(stack: CrashStack) -> None:
    """For longer than its lease: the attempt that was taken back finds that out, and drops its result."""
    while_frozen = stack.freeze(Moment("worker", "kept:result"))
    job = stack.send()["id"]
    while_frozen(lambda: stack.reaches(job, "queued"))
    _ends_with_one_result(stack, job)
    wait_for(lambda: result_key(job, 1) not in stack.stored(), "the first attempt's result to be dropped")


def frozen_with_a_product(stack: CrashStack) -> None:
    while_frozen = stack.freeze(Moment("worker", "kept:product"))
    job = stack.send()["id"]
    while_frozen(lambda: stack.reaches(job, "queued"))
    _ends_with_one_result(stack, job)


def told(stack: CrashStack) -> None:
    """By a webhook: at least once, always under one id."""
    _is_told(stack, "/hook")


def told_slowly(stack: CrashStack) -> None:
    """By a receiver that takes its time, so that the dispatcher renews what it holds."""
    _is_told(stack, "/unhurried-hook")


def fetched_slowly(stack: CrashStack) -> None:
    _ends_with_one_result(stack, stack.name("/unhurried.wav")["id"])


def stopped_while_it_fetches(stack: CrashStack) -> None:
    """The dispatcher, in the middle of a source, which it hands back."""
    job = stack.name("/unhurried.wav")["id"]
    wait_for(lambda: stack.was_asked(job), "the source to be asked for", every_s=POLL_S)
    stack.terminate("dispatcher")
    _ends_with_one_result(stack, job)


def stopped_while_it_tells(stack: CrashStack) -> None:
    _is_told(stack, "/unhurried-hook", lambda: stack.terminate("dispatcher"))


def written_outside(stack: CrashStack) -> None:
    """The transcript in every format, under the prefix that its client named."""
    job = stack.send(output=stack.outputs)["id"]
    wait_for(lambda: _deliveries(stack, job) == ["delivered"], "the outputs to be written", timeout_s=PATIENCE_S, every_s=POLL_S)
    _ends_with_one_result(stack, job)
    written = stack.written_outside(job)
    assert written.keys() == set(Format)
    assert written["txt"] == stack.text(job)


def its_recording_expires(stack: CrashStack) -> None:
    job = _ended(stack, stack.send()["id"])
    _expires(stack, Kept.INPUTS, job, leaves={"products", "transcript"})
    _ends_with_one_result(stack, job)


def its_source_expires(stack: CrashStack) -> None:
    job = _ended(stack, stack.name("/talk.wav")["id"])
    _expires(stack, Kept.INPUTS, job, leaves={"products", "transcript"})
    _ends_with_one_result(stack, job)


def its_products_expire(stack: CrashStack) -> None:
    """And what an attempt left that did not win."""
    job = _ended(stack, stack.send()["id"])
    stack.leave(result_key(job, 99))
    _expires(stack, Kept.PRODUCTS, job, leaves={"input", "transcript"})
    assert result_key(job, 99) not in stack.stored()
    _ends_with_one_result(stack, job)


def it_expires(stack: CrashStack) -> None:
    job = _ended(stack, stack.send()["id"])
    _expires(stack, Kept.RESULTS, job, leaves=set())
    assert stack.ask("GET", f"/v1/jobs/{job}").status_code == 404


def looked_for_orphans(stack: CrashStack) -> None:
    """By a dispatcher that starts and finds that nobody has looked yet."""
    stack.redis.delete("spillway:orphans")
    stack.terminate("dispatcher")
    wait_for(lambda: stack.redis.exists("spillway:orphans"), "the look for orphans", timeout_s=PATIENCE_S)
    uploaded(stack)


def _ended(stack: CrashStack, job_id: str) -> str:
    assert stack.ended(job_id)["state"] == "succeeded"
    return job_id


def _expires(stack: CrashStack, kept: Kept, job_id: str, *, leaves: set[str]) -> None:
    stack.runs_out(kept, job_id)
    wait_for(lambda: not stack.is_kept(kept, job_id), f"its {kept} to be let go", timeout_s=PATIENCE_S, every_s=POLL_S)
    assert stack.stored_of(job_id) == leaves


def _running(stack: CrashStack, **options: Any) -> str:
    job = str(stack.send(**options)["id"])
    stack.reaches(job, "running")
    return job


def _ends_with_one_result(stack: CrashStack, job_id: str) -> None:
    """And with one job, whose visible result is that of an attempt which ran to its end."""
    job = stack.ended(job_id)
    assert job["state"] == "succeeded", job
    key = job["metadata"]["key"]
    assert stack.jobs_of(key) == [job_id]
    text = stack.text(job_id)
    attempt = attempt_of(text)
    assert {"attempt": attempt, "stage": "alignment", "event": "end"}.items() <= stack.journal_of(job_id)[-1].items()
    assert attempt == job["attempt"]


def _fails(stack: CrashStack, job_id: str, code: str) -> None:
    job = stack.ended(job_id)
    assert (job["state"], job["error"]["code"]) == ("failed", code), job
    assert stack.jobs_of(job["metadata"]["key"]) == [job_id]


def _is_deleted(stack: CrashStack, job_id: str) -> None:
    assert stack.ask("DELETE", f"/v1/jobs/{job_id}").status_code in (204, 404)  # 404 when the first call was not heard of
    assert stack.ask("GET", f"/v1/jobs/{job_id}").status_code == 404


def _deliveries(stack: CrashStack, job_id: str) -> list[str]:
    return [delivery["state"] for delivery in stack.ask("GET", f"/v1/jobs/{job_id}/deliveries").json()["deliveries"]]


def _is_told(stack: CrashStack, path: str, act: Callable[[], object] = lambda: None) -> None:
    """`act` happens once the receiver was asked."""
    job = stack.send(callback_url=stack.outside.url(path))["id"]
    wait_for(lambda: stack.hooks(job), "the receiver to be asked", timeout_s=PATIENCE_S)
    act()
    wait_for(lambda: _deliveries(stack, job) == ["delivered"], "the webhook to be delivered", timeout_s=PATIENCE_S, every_s=POLL_S)
    _ends_with_one_result(stack, job)
    assert set(stack.hooks(job)) == {(f"{job}:1", "job.succeeded")}
