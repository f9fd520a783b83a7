"""/v1/jobs/{id}/transcript: the canonical JSON, and every format rendered from it on read."""

import time
from typing import cast

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.media_type import MediaType
from flask_openapi3.models.schema import Schema
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field

from core.errors import TranscriptNotReady
from core.job import Job, JobState
from core.job_files import read_result
from core.moments import rfc3339
from core.render import MEDIA_TYPES, Format, render
from core.transcript import Transcript
from service.access import visible_job
from service.collaborators import given
from service.jobs import JobPath
from service.problems import RESPONSES
from service.signed_addresses import signing
from service.views import answer

api = APIBlueprint("transcripts", __name__, abp_tags=[Tag(name="transcripts")], abp_responses=RESPONSES)
URL_EXPIRES_S = 600.0
TEXTS = {MEDIA_TYPES[form].partition(";")[0]: MediaType(schema=Schema(type="string")) for form in Format if form != Format.JSON}
REASONS = {
    JobState.QUEUED: "the job waits in the queue: ask again when its state is succeeded",
    JobState.RUNNING: "the job is running: ask again when its state is succeeded",
    JobState.CANCELLED: "the job was cancelled: send the recording again",
}


class FormatQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Format = Field(Format.JSON, description="json, txt, srt, vtt, tsv or rttm.")


class TranscriptView(Transcript):
    """Beside its JSON the documentation names the other formats."""

    model_config = cast(ConfigDict, {"title": "Transcript", "openapi_extra": {"content": TEXTS}})


class SignedTranscript(BaseModel):
    url: str = Field(description="Opens the transcript to whoever has it, until then.")
    expires_at: str


@api.get("/v1/jobs/<job_id>/transcript", summary="Read the transcript", responses={200: TranscriptView})
def get_transcript(path: JobPath, query: FormatQuery) -> Response:
    job = visible_job(path.job_id)
    content = _kept(job)
    body = content if query.format == Format.JSON else render(Transcript.model_validate_json(content), query.format)
    return Response(body, content_type=MEDIA_TYPES[query.format])


@api.get("/v1/jobs/<job_id>/transcript/url", summary="Where to download the transcript", responses={200: SignedTranscript})
def get_transcript_url(path: JobPath) -> Response:
    """Of the JSON, straight from the bucket and without a key. Only where the file store is a bucket."""
    job = visible_job(path.job_id)
    files = signing(given().files, instead=f"read it at /v1/jobs/{job.id}/transcript")
    expires_at = time.time() + URL_EXPIRES_S
    return answer(SignedTranscript(url=files.signed_download(_result_key(job), expires_s=URL_EXPIRES_S), expires_at=rfc3339(expires_at)))


def _result_key(job: Job) -> str:
    if job.result_key is None:
        raise TranscriptNotReady(_reason(job))
    return job.result_key


def _kept(job: Job) -> bytes:
    _result_key(job)
    return read_result(given().files.read, job)


def _reason(job: Job) -> str:
    if job.error is not None:
        return f"the job failed ({job.error.code}): {job.error.message}"
    return REASONS.get(job.state, "the job failed")
