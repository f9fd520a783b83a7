"""/v1/queue: what waits, what runs, and who works."""

from flask import Response
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from service.collaborators import given
from service.problems import RESPONSES
from service.views import Outlook, QueueView, answer

api = APIBlueprint("queue", __name__, abp_tags=[Tag(name="queue")], abp_responses=RESPONSES)


@api.get("/v1/queue", summary="Look at the queue", responses={200: QueueView})
def get_queue() -> Response:
    return answer(Outlook(given().jobs).queue_view(given().bursts.view()))
