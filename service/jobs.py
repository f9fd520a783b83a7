"""/v1/jobs: send, list, look at, cancel and delete jobs."""

from functools import partial
from typing import Any

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field

from core.errors import InvalidRequest, JobNotFound, RecordBroken
from core.job import JobOptions, JobState
from core.job_store import JobStore, Page
from service.access import caller, visible_job
from service.collaborators import given
from service.deletion import delete, delete_broken
from service.problems import RESPONSES
from service.submission import accept, wake_a_worker
from service.views import JobPage, JobView, Outlook, answer

api = APIBlueprint("jobs", __name__, abp_tags=[Tag(name="jobs")], abp_responses=RESPONSES)
OPTIONS = JobOptions.model_json_schema(ref_template="#/components/schemas/{model}")["properties"]
FILE = {"type": "string", "format": "binary", "description": "The recording, or a video with a sound track."}
SOURCE = {"type": "string", "description": "Where the recording is, in place of `file`: https://, http:// or gs://."}
CALLBACK = {"type": "string", "description": "https:// or http:// URL that hears, signed, how the job ended."}
OUTPUT = {"type": "string", "description": "gs:// prefix under which the transcript is written in every format once the job has succeeded."}
BESIDE = {"source": SOURCE, "callback_url": CALLBACK, "output": OUTPUT}
SUBMIT_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "oneOf": [{"required": ["file"]}, {"required": ["source"]}],
                "additionalProperties": False,
                "properties": {"file": FILE, **BESIDE, **OPTIONS},
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["source"],
                "additionalProperties": False,
                "properties": {**BESIDE, **OPTIONS},
            }
        },
    },
}
IDEMPOTENCY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "maxLength": 255},
    "description": "The same key with the same request gives the first job again, with another request 409.",
}


class JobPath(BaseModel):
    job_id: str = Field(description="As POST /v1/jobs gave it.")


class PageQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: int = Field(50, ge=1, le=200, description="Most jobs on the page.")
    cursor: str | None = Field(None, description="`next` of the page before.")
    state: JobState | None = Field(None, description="Only jobs in this state.")


@api.post(
    "/v1/jobs",
    summary="Send a recording, or say where it is",
    responses={202: JobView},
    openapi_extensions={"requestBody": SUBMIT_BODY, "parameters": [IDEMPOTENCY_PARAMETER]},
)
def submit_job() -> Response:
    collaborators = given()
    job, is_replay = accept(request, collaborators)
    response = answer(outlook().job_view(job), 202)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if is_replay:
        response.headers["Idempotent-Replayed"] = "true"
    elif job.source is None:  # a source is fetched first
        response.call_on_close(partial(wake_a_worker, collaborators, job.id))  # a broker that is slow delays no answer
    return response


@api.get("/v1/jobs", summary="List jobs, newest first", responses={200: JobPage})
def list_jobs(query: PageQuery) -> Response:
    page, seen = _page(given().jobs, query), outlook()
    return answer(JobPage(jobs=[seen.job_view(job) for job in page], next=page.next))


@api.get("/v1/jobs/<job_id>", summary="Look at a job", responses={200: JobView})
def get_job(path: JobPath) -> Response:
    return answer(outlook().job_view(visible_job(path.job_id)))


@api.post("/v1/jobs/<job_id>/cancel", summary="Cancel a job", responses={202: JobView, 200: JobView})
def cancel_job(path: JobPath) -> Response:
    """202 while its runner has still to let go of it, 200 once it has ended."""
    job = given().jobs.cancel(visible_job(path.job_id).id)
    return answer(outlook().job_view(job), 200 if job.state.is_terminal else 202)


@api.delete("/v1/jobs/<job_id>", summary="Delete a job with its files", responses={204: None})
def delete_job(path: JobPath) -> Response:
    """While the file store is away nothing is deleted: the same call does it later."""
    try:
        delete(visible_job(path.job_id), given())
    except RecordBroken:
        delete_broken(path.job_id, given())
    return Response(status=204)


def outlook() -> Outlook:
    return Outlook(given().jobs, keep_results_s=given().settings.keep_results_s)


def _page(jobs: JobStore, query: PageQuery) -> Page:
    try:
        return jobs.page(limit=query.limit, before=query.cursor, state=query.state, key_id=caller().sees)
    except JobNotFound:
        raise InvalidRequest(
            "cursor: the job it names is not listed, or no longer: start again from the first page", field="cursor"
        ) from None
