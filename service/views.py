"""What clients read: the shapes of the API's answers, and how they come from ours."""

import time
from enum import StrEnum
from typing import Literal

from flask import Response
from pydantic import BaseModel, Field

from core.backlog import Backlog
from core.job import Job, JobFailure, JobOptions, JobState, Stage
from core.job_store import JobStore
from core.moments import rfc3339
from core.transcript import Notice
from core.urls import without_query
from core.worker_reports import Download, WorkerReport, WorkerState
from service.bursts import BurstView


class WaitingFor(StrEnum):
    MODELS = "models"
    WORKER = "worker"
    TURN = "turn"


class DownloadView(BaseModel):
    done_bytes: int = Field(description="Of all models together.")
    total_bytes: int
    what: str = Field(description="The file that comes now.")


class JobView(BaseModel):
    id: str
    state: JobState
    stage: Stage | None
    progress: float = Field(description="0 to 1.")
    attempt: int = Field(description="Raised by every start.")
    runner: Literal["local", "modal"] | None = Field(description="Where its last attempt runs or ran; null before the first.")
    losses: int = Field(description="Runners that died with it.")
    cancel_requested: bool = Field(description="Whether it was cancelled while it ran; until it has ended its runner is letting go of it.")
    queue_position: int | None = Field(
        description="Jobs before it, as far as can be told; null while its source is fetched and once it does not wait."
    )
    waiting_for: WaitingFor | None = Field(
        description="`models`: a worker brings or loads them; `worker`: none is fit; `turn`: workers are busy. Null while its source is"
        " fetched and once it does not wait."
    )
    downloading: DownloadView | None = Field(description="How far the models are that it waits for; null when none comes.")
    estimated_start: str | None = Field(description="From the backlog and the measured speed; null when unknown.")
    created_at: str = Field(description="RFC 3339, UTC, as every time here.")
    started_at: str | None
    finished_at: str | None
    expires_at: str | None = Field(
        description="When the job is deleted, its transcript with it, or as soon after as nothing of it is to be delivered any more. Null"
        " until it has ended, and where jobs are kept for ever."
    )
    duration_s: float | None = Field(description="Null until its source was fetched.")
    source: str | None = Field(description="Where the recording was fetched from, without its query; null for an upload.")
    filename: str
    options: JobOptions
    metadata: dict[str, object]
    warnings: tuple[Notice, ...]
    error: JobFailure | None
    transcript: str | None = Field(description="Where the transcript is, when there is one.")


class JobPage(BaseModel):
    jobs: list[JobView] = Field(description="Newest first.")
    next: str | None = Field(
        description="`cursor` of the next page; null on the last. Of one state, a page with few jobs, even none, can have a next."
    )


class WorkerView(BaseModel):
    slot: str
    fit: bool
    state: WorkerState
    reason: str = Field(description="Why it is not fit, and what to do.")
    downloading: DownloadView | None = Field(description="How far its models are; null when none comes.")
    device: str
    model: str
    jobs_in_flight: int


class QueueView(BaseModel):
    queued_jobs: int
    queued_audio_s: float
    fetching_jobs: int = Field(description="Jobs whose source is still to be fetched; they are not among the queued ones.")
    running_jobs: int
    running_audio_s: float
    real_time_factor: float | None = Field(description="Audio seconds per second of a busy worker, lately; null before its first job.")
    estimated_wait_s: float | None = Field(description="For a job sent now; null when unknown.")
    workers: list[WorkerView]
    burst: BurstView


class Outlook:
    """The queue at one moment, read at most once and only if a job still waits."""

    def __init__(self, jobs: JobStore, *, keep_results_s: float | None = None) -> None:
        """`keep_results_s` is how long ended jobs are kept; None for ever."""
        self._jobs, self._keep_results_s = jobs, keep_results_s
        self._read: tuple[Backlog, tuple[WorkerReport, ...]] | None = None

    def job_view(self, job: Job) -> JobView:
        position = self._position(job) if job.state == JobState.QUEUED else None
        waiting_for = None if position is None else awaited(self._now()[1])
        return JobView(
            **job.model_dump(include=COPIED),
            queue_position=position,
            waiting_for=waiting_for,
            downloading=download_of(self._now()[1]) if waiting_for == WaitingFor.MODELS else None,
            estimated_start=None if position is None else self._start(position),
            runner=job.runner or None,
            created_at=rfc3339(job.created_at),
            started_at=_maybe(job.started_at),
            finished_at=_maybe(job.finished_at),
            expires_at=self._end_of(job),
            duration_s=job.duration_s if job.input_key else None,
            source=without_query(job.source) if job.source else None,
            options=job.options,
            metadata=dict(job.options.metadata),
            warnings=job.warnings,
            error=job.error,
            transcript=f"/v1/jobs/{job.id}/transcript" if job.result_key else None,
        )

    def queue_view(self, burst: BurstView) -> QueueView:
        backlog, workers = self._now()
        return QueueView(
            **backlog.__dict__,
            estimated_wait_s=wait_s(backlog.queued_jobs, backlog, workers),
            workers=[_worker_view(worker) for worker in workers],
            burst=burst,
        )

    def _position(self, job: Job) -> int | None:
        if self._read is not None:
            return self._jobs.position(job)
        standing = self._jobs.standing(job)
        self._read = standing.backlog, standing.workers
        return standing.position

    def _end_of(self, job: Job) -> str | None:
        if job.finished_at is None or self._keep_results_s is None:
            return None
        return rfc3339(job.finished_at + self._keep_results_s)

    def _start(self, position: int) -> str | None:
        seconds = wait_s(position, *self._now())
        return None if seconds is None else rfc3339(time.time() + seconds)

    def _now(self) -> tuple[Backlog, tuple[WorkerReport, ...]]:
        if self._read is None:
            self._read = self._jobs.backlog(), self._jobs.workers()
        return self._read


COPIED = {"id", "state", "stage", "progress", "attempt", "losses", "cancel_requested", "filename"}


def awaited(workers: tuple[WorkerReport, ...]) -> WaitingFor:
    """What a queued job waits for."""
    if any(worker.fit for worker in workers):
        return WaitingFor.TURN
    comes = any(worker.state in (WorkerState.DOWNLOADING, WorkerState.LOADING) for worker in workers)
    return WaitingFor.MODELS if comes else WaitingFor.WORKER


def download_of(workers: tuple[WorkerReport, ...]) -> DownloadView | None:
    """Workers of one volume share one download, so that the first says it for all."""
    return next((_download_view(worker.downloading) for worker in workers if worker.downloading), None)


def wait_s(position: int, backlog: Backlog, workers: tuple[WorkerReport, ...]) -> float | None:
    """Until a job with `position` jobs before it starts, if those are of average length; None without a fit worker or a measurement."""
    fit = sum(worker.fit for worker in workers)
    if not fit or not backlog.real_time_factor:
        return None
    queued_s = backlog.queued_audio_s * position / max(backlog.queued_jobs, 1)
    return (backlog.running_audio_s + queued_s) / (backlog.real_time_factor * fit)


def answer(model: BaseModel, status: int = 200) -> Response:
    return Response(model.model_dump_json(), status, mimetype="application/json")


def _maybe(timestamp: float | None) -> str | None:
    return None if timestamp is None else rfc3339(timestamp)


def _download_view(download: Download) -> DownloadView:
    return DownloadView(**download.__dict__)


def _worker_view(worker: WorkerReport) -> WorkerView:
    return WorkerView(
        slot=worker.slot,
        fit=worker.fit,
        state=worker.state,
        reason=worker.reason,
        downloading=_download_view(worker.downloading) if worker.downloading else None,
        device=worker.device,
        model=worker.asr_model,
        jobs_in_flight=worker.jobs_in_flight,
    )
