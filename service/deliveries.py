"""/v1/jobs/{id}/deliveries: what became of a job's webhook and output, try by try."""

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, Field

from core.moments import rfc3339
from core.outbox import Attempt, Delivery, DeliveryKind, DeliveryState
from core.urls import without_query
from service.access import visible_job
from service.collaborators import given
from service.jobs import JobPath
from service.problems import RESPONSES
from service.views import answer

api = APIBlueprint("deliveries", __name__, abp_tags=[Tag(name="jobs")], abp_responses=RESPONSES)


class AttemptView(BaseModel):
    at: str
    status: int | None = Field(description="Of the receiver's answer; null when there was none.")
    error: str | None = Field(description="Why it was not taken; null when it was.")


class DeliveryView(BaseModel):
    id: str = Field(description="The same over all tries; a webhook brings it as `webhook-id`.")
    kind: DeliveryKind
    url: str = Field(description="Where to, without its query.")
    state: DeliveryState = Field(description="`failed` was given up after a day; `stopped`: the receiver wants no more of it.")
    attempts: list[AttemptView]
    next_try: str | None = Field(description="Null before the job has ended, while it is tried, and once there is no next.")


class DeliveryList(BaseModel):
    deliveries: list[DeliveryView]


@api.get("/v1/jobs/<job_id>/deliveries", summary="See what became of a job's webhook and output", responses={200: DeliveryList})
def list_deliveries(path: JobPath) -> Response:
    owed = given().outbox.of_job(visible_job(path.job_id))
    return answer(DeliveryList(deliveries=[_view(delivery) for delivery in owed]))


def _view(delivery: Delivery) -> DeliveryView:
    return DeliveryView(
        id=delivery.id,
        kind=delivery.owed.kind,
        url=without_query(delivery.owed.target),
        state=delivery.state,
        attempts=[_attempt_view(attempt) for attempt in delivery.attempts],
        next_try=None if delivery.next_try_at is None else rfc3339(delivery.next_try_at),
    )


def _attempt_view(attempt: Attempt) -> AttemptView:
    return AttemptView(at=rfc3339(attempt.at), status=attempt.status, error=attempt.error)
