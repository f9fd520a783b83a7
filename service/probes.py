"""/healthz and /readyz: is the process alive, can it take jobs."""

from enum import StrEnum
from typing import Any

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, Field

from core.errors import StoreUnavailable
from core.file_store import SPARE_BYTES, FileStore
from core.job_store import JobStore
from core.worker_reports import WorkerReport, WorkerState
from service.collaborators import given
from service.problems import RESPONSES
from service.views import answer, download_of

api = APIBlueprint("probes", __name__, abp_tags=[Tag(name="probes")], abp_responses=RESPONSES)

NO_KEY: dict[str, Any] = {"security": []}


class Health(BaseModel):
    status: str = "alive"


class ModelsState(StrEnum):
    READY = "ready"
    DOWNLOADING = "downloading"
    MISSING = "missing"
    UNKNOWN = "unknown"


class ModelsReadiness(BaseModel):
    state: ModelsState = Field(
        description="Of the workers' models. `missing`: `GET /v1/queue` says what to do; `unknown`: no worker has said. Jobs may come."
    )
    done_bytes: int | None = None
    total_bytes: int | None = None


class Readiness(BaseModel):
    ready: bool
    reasons: list[str] = Field(description="Why jobs cannot be accepted; empty when they can.")
    models: ModelsReadiness


@api.get("/healthz", summary="Is the process alive", openapi_extensions=NO_KEY, responses={200: Health})
def healthz() -> Response:
    return answer(Health())


@api.get("/readyz", summary="Can jobs be accepted", openapi_extensions=NO_KEY, responses={200: Readiness, 503: Readiness})
def readyz() -> Response:
    fault, models = _look_at(given().jobs)
    reasons = [*([fault] if fault else []), *_file_store_faults(given().files)]
    ready = Readiness(ready=not reasons, reasons=reasons, models=models)
    return answer(ready, 503 if reasons else 200)


def _look_at(jobs: JobStore) -> tuple[str | None, ModelsReadiness]:
    """Why Redis takes no jobs, and what its workers say; a Redis that is frozen is asked once, since asking takes 2 s."""
    fault = jobs.fault()
    if fault:
        return fault, ModelsReadiness(state=ModelsState.UNKNOWN)
    try:
        return None, _models(jobs.workers())
    except StoreUnavailable:  # it went away after all
        return "Redis does not answer", ModelsReadiness(state=ModelsState.UNKNOWN)


def _models(workers: tuple[WorkerReport, ...]) -> ModelsReadiness:
    state, download = _models_state(workers), download_of(workers)
    if state != ModelsState.DOWNLOADING or download is None:
        return ModelsReadiness(state=state)
    return ModelsReadiness(state=state, done_bytes=download.done_bytes, total_bytes=download.total_bytes)


def _models_state(workers: tuple[WorkerReport, ...]) -> ModelsState:
    """The best that any worker says."""
    states = {worker.state for worker in workers}
    if states & {WorkerState.FIT, WorkerState.LOADING}:
        return ModelsState.READY
    if WorkerState.DOWNLOADING in states:
        return ModelsState.DOWNLOADING
    return ModelsState.MISSING if WorkerState.MODELS_MISSING in states else ModelsState.UNKNOWN


def _file_store_faults(files: FileStore) -> list[str]:
    if fault := files.fault():
        return [fault]
    return [] if files.free_bytes() >= SPARE_BYTES else ["the file store's disk is full"]
