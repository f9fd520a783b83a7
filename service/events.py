"""/v1/jobs/{id}/events: a job's changes as server-sent events."""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from itertools import chain
from math import inf
from random import uniform
from time import monotonic
from typing import cast

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag

from core.errors import JobNotFound, StoreUnavailable
from core.job import Job
from service.access import caller, is_revoked, visible_job
from service.collaborators import given
from service.jobs import JobPath
from service.problems import RESPONSES
from service.views import JobView, Outlook

api = APIBlueprint("events", __name__, abp_tags=[Tag(name="jobs")], abp_responses=RESPONSES)
LOOK_AGAIN_S = 1.0  # how late a stream may notice that the service is stopping, or that a hint got lost
QUEUE_S = 4.0  # and up to half as much again: how old a waiting job's place may be
HEARTBEAT_S = 10.0  # shows a client that is still there the line is alive, and us one that is not
TOO_MANY_STREAMS = "too many event streams are open: poll GET /v1/jobs/{id} instead, or try again later"
RECONNECT = "retry: 2000\n"  # ms; goes out with the first event


@api.get(
    "/v1/jobs/<job_id>/events",
    summary="Watch a job",
    responses={
        200: {"description": "Event `job` on each change, until the job has ended.", "content": {"text/event-stream": {}}},
        204: {"description": "The job has ended, and `Last-Event-ID` is its last event: a browser's EventSource stops coming back."},
    },
)
def watch_job(path: JobPath) -> Response:
    collaborators, who, job = given(), caller(), visible_job(path.job_id)
    if job.state.is_terminal and request.headers.get("Last-Event-ID") == str(job.version):
        return Response(status=204)
    with ExitStack() as opened:
        opened.enter_context(collaborators.event_streams.one(who.key_id, TOO_MANY_STREAMS))
        opened.enter_context(collaborators.long_requests.one(who.key_id, TOO_MANY_STREAMS))
        watched = cast(Generator[Job, None, None], collaborators.jobs.watch(job.id, quiet_s=LOOK_AGAIN_S))
        changes = opened.enter_context(closing(watched))
        known = chain([next(changes)], changes)  # so that a job that is not there is a 404 and not a broken stream

        def shown(job: Job) -> JobView:
            return Outlook(collaborators.jobs, keep_results_s=collaborators.settings.keep_results_s).job_view(job)

        def is_over() -> bool:
            return collaborators.is_stopping() or is_revoked(collaborators.keys, who)

        response = Response(_stream(known, shown, is_over), mimetype="text/event-stream")
        response.call_on_close(opened.pop_all().close)
    response.headers.update({"X-Accel-Buffering": "no"})
    return response


def _stream(changes: Iterator[Job], shown: Callable[[Job], JobView], is_over: Callable[[], bool]) -> Iterator[str]:
    """Ends with the job, with the service, with its API key, and when Redis goes away: the client comes back or polls."""
    opening = RECONNECT
    seen: tuple[object, ...] | None = None
    said_at, shown_at, version = monotonic(), -inf, None
    refresh_s = QUEUE_S * uniform(1.0, 1.5)  # streams that were opened at once would ask at once for ever
    try:
        for job in changes:
            if job.version != version or monotonic() - shown_at >= refresh_s:
                view, version, shown_at = shown(job), job.version, monotonic()
                news = (version, view.queue_position, view.waiting_for, view.downloading)
            if news != seen:
                seen, said_at = news, monotonic()
                yield f"{opening}event: job\nid: {job.version}\ndata: {view.model_dump_json()}\n\n"
                opening = ""
            elif monotonic() - said_at >= HEARTBEAT_S:
                said_at = monotonic()
                yield ": heartbeat\n\n"
            if is_over():
                return
    except JobNotFound:
        yield "event: deleted\ndata: {}\n\n"
    except StoreUnavailable:
        return
