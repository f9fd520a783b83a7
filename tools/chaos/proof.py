"""Whether the promises held, asked from the outside: what the service says, what clients saw, and what the stages wrote themselves."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from client.api import SpillwayClient
from client.errors import ServiceAway, ServiceBusy
from client.models import Job
from tools.chaos.callbacks import Receiver
from tools.chaos.crowd import Seen, every_job
from tools.chaos.journal import Line, attempts_begun, finished_attempts
from tools.chaos.orders import Order

ATTEMPT = re.compile(r"attempt (\d+)")


@dataclass
class Findings:
    """Each names a job and what is wrong with it; all empty when every promise held."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # ended otherwise than its order says, or a count that does not agree
    left_over: list[str] = field(default_factory=list)

    def all(self) -> list[str]:
        return [*self.lost, *self.duplicated, *self.stuck, *self.wrong, *self.left_over]


def settle(client: SpillwayClient, seen: Seen, orders: Sequence[Order], receiver: Receiver, timeout_s: float) -> None:
    """Waits until every acknowledged job has ended and told so whom it was to tell, as far as that comes about."""
    owing = {job_id for number, ids in seen.answers.items() for job_id in ids if orders[number].wants_callback}
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        with suppress(ServiceAway, ServiceBusy):
            if not any(_is_waiting(job) for job in every_job(client)) and owing <= receiver.taken.keys():
                return
        time.sleep(0.5)


def prove(
    client: SpillwayClient, seen: Seen, orders: Sequence[Order], receiver: Receiver, journal: list[Line], *, max_losses: int
) -> Findings:
    found = Findings()
    jobs = {job.id: job for job in every_job(client)}
    acknowledged = {job_id: orders[number] for number, ids in seen.answers.items() for job_id in ids}
    for number, ids in seen.answers.items():
        if len(set(ids)) > 1:
            found.duplicated.append(f"order {number} has jobs {sorted(set(ids))}")
    found.duplicated += [f"{job_id} was never acknowledged to anybody" for job_id in sorted(set(jobs) - set(acknowledged))]
    found.wrong += [f"order {order.number} was never acknowledged" for order in orders if order.number not in seen.answers]
    finished, begun = finished_attempts(journal), attempts_begun(journal)
    for job_id, order in acknowledged.items():
        job = jobs.get(job_id)
        if job is None:
            found.lost.append(f"{job_id} is not there any more")
        elif _is_waiting(job):
            found.stuck.append(f"{job_id} is {job.state} (attempt {job.attempt}, losses {job.losses}, stage {job.stage})")
        else:
            seen.compare(client, job)
            found.wrong += _judge(order, job, len(begun[job_id]), max_losses)
            found.duplicated += _visible(client, order, job, seen, finished[job_id])
            found.lost += _called_back(order, job, receiver)
    found.duplicated += seen.contradictions
    found.wrong += _counts(client)
    return found


def _is_waiting(job: Job) -> bool:
    return not job.has_ended


def _judge(order: Order, job: Job, begun: int, max_losses: int) -> Iterable[str]:
    """Whether it ended as it must: by its script, by its own cancel, or set aside after as many lost runners as that takes."""
    code = job.error.code if job.error else None
    may_be: set[tuple[str, str | None]] = {("succeeded", None)} if order.error is None else {("failed", order.error)}
    if order.cancel_after_s is not None:
        may_be.add(("cancelled", None))
    if job.losses >= max_losses:
        may_be.add(("failed", "worker_lost"))
    if (job.state, code) not in may_be:
        yield f"{job.id} (order {order.number}, {order.script}) is {job.state} {code}, losses {job.losses}"
    if order.script is not None and begun > job.attempt:
        yield f"{job.id} began {begun} times with {job.attempt} attempts"


def _visible(client: SpillwayClient, order: Order, job: Job, seen: Seen, finished: set[int]) -> Iterable[str]:
    """The one result is the one that was always seen, and a stage wrote that it made it."""
    if job.state != "succeeded":
        return
    text = client.transcript(job.id, format="txt")
    if seen.texts.get(job.id, text) != text:
        yield f"{job.id} showed two transcripts"
    if order.script is not None:
        attempt = int(ATTEMPT.search(text)[1])  # type: ignore[index]  # the script's own text
        if attempt not in finished:
            yield f"{job.id} shows attempt {attempt}, which never finished"


def _called_back(order: Order, job: Job, receiver: Receiver) -> Iterable[str]:
    ids = receiver.taken.get(job.id, [])
    if order.wants_callback and not ids:
        yield f"{job.id} owes a callback"
    if len(set(ids)) > 1 or (ids and not order.wants_callback):
        yield f"{job.id} called back as {sorted(set(ids))}"


def _counts(client: SpillwayClient) -> Iterable[str]:
    queue = client.queue()
    counts = (queue.queued_jobs, queue.queued_audio_s, queue.running_jobs, queue.running_audio_s)
    if any(counts):
        yield f"the queue is empty and says {counts}"


def delete_all(client: SpillwayClient) -> None:
    """Every job, as a client would."""
    for job in every_job(client):
        client.delete(job.id)


def sweep(files: Path, environment: Mapping[str, str]) -> tuple[int, list[str]]:
    """Lets what is left grow old and has it swept: how many files that took, and those that are there all the same."""
    left = _files_in(files)
    long_ago = time.time() - 30 * 86_400
    for path in files.rglob("*"):
        os.utime(path, (long_ago, long_ago))
    command = [sys.executable, "-m", "dispatcher.orphans", "--delete"]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    after = _files_in(files)
    return len(left) - len(after), after


def _files_in(files: Path) -> list[str]:
    """Without the locks of the workers' slots, which say nothing of a job."""
    found = (path.relative_to(files) for path in files.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if path.parts[0] != "slots")
