"""/v1/uploads: large recordings straight into the bucket."""

import time
from math import ceil
from uuid import uuid4

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, ConfigDict, Field

from core.bucket_file_store import CONTENT_TYPE, UPLOAD_HEADERS
from core.errors import RateLimited, TooLarge
from core.file_store import upload_key
from core.moments import rfc3339
from service.access import caller
from service.collaborators import given
from service.problems import RESPONSES
from service.signed_addresses import signing
from service.views import answer

api = APIBlueprint("uploads", __name__, abp_tags=[Tag(name="jobs")], abp_responses=RESPONSES)
EXPIRES_S = 3600  # to begin in; an upload that has begun may take Google's own week


class NewUpload(BaseModel):
    model_config = ConfigDict(extra="forbid")

    bytes: int | None = Field(None, ge=1, description="The recording's size, so that one that is too large is refused before it is sent.")


class Upload(BaseModel):
    upload_url: str = Field(description="POST there with `headers` and no body; the answer's Location takes the bytes by PUT, resumable.")
    headers: dict[str, str] = Field(description="To be sent as they are: they are signed.")
    source: str = Field(description="What POST /v1/jobs takes as `source` once the bytes are there.")
    expires_at: str = Field(description="Begin before then.")


@api.post("/v1/uploads", summary="Begin an upload straight into the bucket", responses={201: Upload})
def begin_upload(body: NewUpload) -> Response:
    """Only where the file store is a bucket. What no job has taken is deleted after a week."""
    files = signing(given().files, instead="send the recording to POST /v1/jobs as multipart/form-data")
    most = given().settings.max_upload_bytes
    if body.bytes is not None and body.bytes > most:
        raise TooLarge(f"the recording is larger than {most} bytes, the most that is taken here: compress it")
    _limit_uploads()
    key, expires_at = upload_key(uuid4().hex), time.time() + EXPIRES_S
    upload = Upload(
        upload_url=files.signed_upload(key, expires_s=EXPIRES_S),
        headers={**UPLOAD_HEADERS, "content-type": CONTENT_TYPE},
        source=str(files.place(key)),
        expires_at=rfc3339(expires_at),
    )
    return answer(upload, 201)


def _limit_uploads() -> None:
    """Of a key in an hour as many as it may have jobs: what no job takes is in the bucket all the same. Raises `RateLimited`."""
    most = caller().max_jobs
    if wait_s := given().rates.spend(f"uploads:{caller().key_id}", most=most, window_s=EXPIRES_S):
        raise RateLimited(
            f"this API key may begin {most} uploads an hour: send the jobs of those that are there", retry_after_s=ceil(wait_s)
        )
