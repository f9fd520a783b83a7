"""What the service answers, typed; fields that this version does not know are passed over."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class Failure:
    code: str
    message: str


@dataclass(frozen=True)
class Download:
    done_bytes: int
    total_bytes: int
    what: str


@dataclass(frozen=True)
class Job:
    """Times are RFC 3339, UTC."""

    id: str
    state: str  # queued, running, succeeded, failed or cancelled
    stage: str | None
    progress: float  # 0 to 1
    attempt: int
    runner: str | None  # local or modal, where its last attempt runs or ran
    losses: int
    cancel_requested: bool  # while it ran; until it has ended its runner is letting go of it
    queue_position: int | None  # jobs before it
    waiting_for: str | None  # models, worker or turn, while it is queued
    downloading: Download | None  # the models that it waits for
    estimated_start: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    expires_at: str | None  # when it is deleted, its transcript with it
    duration_s: float | None  # None until its source was fetched
    source: str | None
    filename: str
    options: dict[str, Any]
    metadata: dict[str, Any]
    warnings: tuple[Failure, ...]
    error: Failure | None
    transcript: str | None

    @property
    def has_ended(self) -> bool:
        return self.state in ENDED

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> Self:
        known = {field.name: answer.get(field.name) for field in fields(cls)}
        known["warnings"] = tuple(_failure(warning) for warning in answer.get("warnings") or ())
        known["error"] = _failure(answer["error"]) if answer.get("error") else None
        known["downloading"] = _download(answer["downloading"]) if answer.get("downloading") else None
        return cls(**known)  # type: ignore[arg-type]  # the service's schema is trusted to hold its types


@dataclass(frozen=True)
class JobPage:
    jobs: tuple[Job, ...]  # newest first
    next: str | None  # the cursor of the next page


@dataclass(frozen=True)
class Attempt:
    at: str
    status: int | None  # of the receiver's answer, where there was one
    error: str | None


@dataclass(frozen=True)
class Delivery:
    id: str
    kind: str  # webhook or output
    url: str
    state: str  # pending, delivered, failed or stopped
    attempts: tuple[Attempt, ...]
    next_try: str | None

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> Self:
        known = {field.name: answer[field.name] for field in fields(cls)}
        tries = answer["attempts"]
        known["attempts"] = tuple(Attempt(**{field.name: attempt[field.name] for field in fields(Attempt)}) for attempt in tries)
        return cls(**known)


@dataclass(frozen=True)
class Worker:
    slot: str
    fit: bool
    reason: str
    device: str
    model: str
    jobs_in_flight: int


@dataclass(frozen=True)
class Bursts:
    """Of jobs to Modal; money by the box's own ledger, in dollars."""

    enabled: bool
    paused: bool
    reason: str  # of the pause
    calls: int  # under way
    jobs: int  # in those calls
    day_cap_usd: float
    today_usd: float  # spent, and what calls under way may still cost
    month_cap_usd: float
    month_usd: float

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> Self:
        known = {field.name: answer[field.name] for field in fields(cls) if field.name in answer}
        costs = {day["day"]: day["spent_usd"] + day["reserved_usd"] for day in answer["days"]}
        return cls(**known, today_usd=costs.get(answer["today"], 0.0), month_usd=sum(costs.values()))


@dataclass(frozen=True)
class Queue:
    queued_jobs: int
    queued_audio_s: float
    fetching_jobs: int  # whose source is still to be fetched
    running_jobs: int
    running_audio_s: float
    real_time_factor: float | None
    estimated_wait_s: float | None
    workers: tuple[Worker, ...]
    burst: Bursts

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> Self:
        known = {field.name: answer[field.name] for field in fields(cls)}
        known["burst"] = Bursts.read(answer["burst"])
        known["workers"] = tuple(Worker(**{field.name: worker[field.name] for field in fields(Worker)}) for worker in answer["workers"])
        return cls(**known)


def _download(answer: Mapping[str, Any]) -> Download:
    return Download(answer["done_bytes"], answer["total_bytes"], answer["what"])


def _failure(answer: Mapping[str, str]) -> Failure:
    return Failure(code=answer["code"], message=answer["message"])
