"""What waits, what runs and who works, as a client of a waiting job is told it: asked of Redis in one round trip, for many ask."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from core.job import Job, Priority
from core.job_records import seconds_of
from core.worker_reports import WorkerReport, report_of


@dataclass(frozen=True)
class Backlog:
    queued_jobs: int
    queued_audio_s: float
    fetching_jobs: int  # not among the queued: their recordings are not there yet
    running_jobs: int
    running_audio_s: float
    real_time_factor: float | None  # audio seconds per second of one busy worker, by its recent jobs; None before the first


@dataclass(frozen=True)
class Standing:
    """Of a job: how many are before it, as far as can be told, for claims are fair between keys, not first come; and what they wait for.

    The workers' `jobs_in_flight` are not counted.
    """

    position: int | None  # None once it does not wait
    backlog: Backlog
    workers: tuple[WorkerReport, ...]


def ask_backlog(pipe: Any, key: Callable[..., str]) -> None:
    for priority in Priority:
        pipe.zcard(key("pending", priority))
    pipe.zcard(key("fetching")).zcard(key("leases")).hgetall(key("totals")).hgetall(key("speed"))


def backlog_of(replies: Sequence[Any]) -> Backlog:
    *queued, fetching, running, totals, speed = replies
    audio_s, run_s = seconds_of(speed.get("audio_ms")), seconds_of(speed.get("run_ms"))
    return Backlog(
        queued_jobs=sum(queued),
        queued_audio_s=sum(seconds_of(totals.get(f"pending_ms:{priority}")) for priority in Priority),
        fetching_jobs=fetching,
        running_jobs=running,
        running_audio_s=seconds_of(totals.get("running_ms")),
        real_time_factor=audio_s / run_s if run_s else None,
    )


def ask_standing(pipe: Any, key: Callable[..., str], job: Job) -> None:
    ask_backlog(pipe, key)
    pipe.zrank(key("pending", job.options.priority), job.id)
    pipe.sort(key("workers"), by="nosort", get=key("worker", "*"))


def standing_of(replies: Sequence[Any], job: Job) -> Standing:
    *backlog, rank, reports = replies
    ahead = sum(backlog[: list(Priority).index(job.options.priority)])
    workers = sorted((report_of(json.loads(report), 0) for report in reports if report), key=lambda worker: worker.slot)
    return Standing(None if rank is None else rank + ahead, backlog_of(backlog), tuple(workers))
