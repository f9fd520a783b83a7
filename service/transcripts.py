"""/v1/jobs/{id}/transcript: the canonical JSON, and every format rendered from it on read."""

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field

from core.errors import TranscriptNotReady
from core.job import Job, JobState
from core.render import MEDIA_TYPES, Format, render
from core.transcript import Transcript
from service.access import visible_job
from service.collaborators import given
from service.jobs import JobPath
from service.problems import RESPONSES

api = APIBlueprint("transcripts", __name__, abp_tags=[Tag(name="transcripts")], abp_responses=RESPONSES)
REASONS = {
    JobState.QUEUED: "the job waits in the queue: ask again when its state is succeeded",
    JobState.RUNNING: "the job is running: ask again when its state is succeeded",
    JobState.SUCCEEDED: "the transcript is gone: its file is no longer in the file store; send the recording again",
    JobState.CANCELLED: "the job was cancelled: send the recording again",
}


class FormatQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Format = Field(Format.JSON, description="json, txt, srt, vtt, tsv or rttm.")


@api.get("/v1/jobs/<job_id>/transcript", summary="Read the transcript", responses={200: Transcript})
def get_transcript(path: JobPath, query: FormatQuery) -> Response:
    job = visible_job(path.job_id)
    content = _kept(job)
    body = content if query.format == Format.JSON else render(Transcript.model_validate_json(content), query.format)
    return Response(body, content_type=MEDIA_TYPES[query.format])


def _kept(job: Job) -> bytes:
    if job.result_key is None:
        raise TranscriptNotReady(_reason(job))
    try:
        return given().files.read(job.result_key)
    except FileNotFoundError:
        raise TranscriptNotReady(REASONS[JobState.SUCCEEDED]) from None


def _reason(job: Job) -> str:
    if job.error is not None:
        return f"the job failed ({job.error.code}): {job.error.message}"
    return REASONS.get(job.state, "the job failed")
