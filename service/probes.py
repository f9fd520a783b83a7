"""/healthz and /readyz: is the process alive, can it take jobs."""

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, Field

from core.errors import DiskFull
from core.file_store import SPARE_BYTES, LocalFileStore
from service.collaborators import given
from service.problems import RESPONSES
from service.views import answer

api = APIBlueprint("probes", __name__, abp_tags=[Tag(name="probes")], abp_responses=RESPONSES)


class Health(BaseModel):
    status: str = "alive"


class Readiness(BaseModel):
    ready: bool
    reasons: list[str] = Field(description="Why jobs cannot be accepted; empty when they can.")


@api.get("/healthz", summary="Is the process alive", responses={200: Health})
def healthz() -> Response:
    return answer(Health())


@api.get("/readyz", summary="Can jobs be accepted", responses={200: Readiness, 503: Readiness})
def readyz() -> Response:
    reasons = [] if given().jobs.is_reachable() else ["Redis does not answer"]
    reasons += _file_store_faults(given().files)
    return answer(Readiness(ready=not reasons, reasons=reasons), 503 if reasons else 200)


def _file_store_faults(files: LocalFileStore) -> list[str]:
    try:
        files.start("probes/readiness").discard()
        has_room = files.free_bytes() >= SPARE_BYTES
    except (OSError, DiskFull):
        return ["the file store cannot be written"]
    return [] if has_room else ["the file store's disk is full"]
