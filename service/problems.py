"""Errors as RFC 9457 problem details: one table from error to status, one shape of body, nothing internal in it."""

from http import HTTPStatus
from typing import Any

from flask import Flask, Response, g, request
from gunicorn.http.errors import ParseException
from pydantic import BaseModel, Field, ValidationError
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from core import errors
from core.log import logger
from service.validation import refusal

MEDIA_TYPE = "application/problem+json"
STATUSES: dict[type[errors.SpillwayError], int] = {
    errors.InvalidRequest: 422,
    errors.UnknownOption: 422,
    errors.Unsupported: 422,
    errors.InvalidMedia: 422,
    errors.ObjectRefused: 422,
    errors.TooLarge: 413,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.JobNotFound: 404,
    errors.TranscriptNotReady: 409,
    errors.IdempotencyConflict: 409,
    errors.RateLimited: 429,
    errors.TooManyJobs: 429,
    errors.TooManyOpen: 429,
    errors.QueueFull: 503,
    errors.ServiceBusy: 503,
    errors.StoreUnavailable: 503,
    errors.RecordBroken: 500,
    errors.DiskFull: 507,
    errors.StorageUnavailable: 503,
    errors.StorageDenied: 503,
    errors.BucketDenied: 503,
}
# What is ours to mend is told in words of our own: the log has the rest.
PUBLIC_DETAILS: dict[type[errors.SpillwayError], str] = {
    errors.StoreUnavailable: "the job store is away for the moment: try again",
    errors.DiskFull: "the disk is full: try again once jobs have been deleted",
    errors.StorageUnavailable: "the file store is away for the moment: try again",
    errors.StorageDenied: "the file store is away until its operator mends it: try again later",
    errors.BucketDenied: "the file store is away until its operator mends it: try again later",
}
CODES = {400: "malformed_request", 403: "forbidden", 404: "not_found", 405: "method_not_allowed", 408: "request_timeout",
         413: "too_large", 415: "unsupported_media_type"}  # fmt: skip
_PROBLEM = {"description": "A problem.", "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
RESPONSES: dict[str | int | HTTPStatus, Any] = {"422": _PROBLEM, "default": _PROBLEM}  # what every route of the API may answer
GENERIC = "something broke on our side: the log has the details under this request's time"
NO_SUCH_ADDRESS = "there is nothing at this address: /docs lists what there is"


class Problem(BaseModel):
    """The body of every error."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str = Field(description="For machines; it does not change.")
    field: str | None = Field(None, description="The field or parameter that is wrong, where there is one.")


def problem(status: int, code: str, detail: str, *, field: str | None = None, retry_after_s: int | None = None) -> Response:
    g.problem_code = code
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, code=code, field=field)
    response = Response(body.model_dump_json(exclude_none=True), status, mimetype=MEDIA_TYPE)
    if retry_after_s is not None:
        response.headers["Retry-After"] = str(retry_after_s)
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def register(app: Flask) -> None:
    app.register_error_handler(errors.SpillwayError, _of_ours)
    app.register_error_handler(HTTPException, _of_http)
    app.register_error_handler(ParseException, _of_broken_http)
    app.register_error_handler(Exception, _of_a_bug)


def raise_refusal(error: ValidationError) -> Response:
    """For flask-openapi3, whose own answer would echo what was sent."""
    raise refusal(error) from None


def _of_ours(error: errors.SpillwayError) -> Response:
    status = next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), None)
    if status is None:
        return _of_a_bug(error)
    if isinstance(error, errors.OurError):
        logger("service").error("request_failed", code=error.code, reason=str(error), path=request.path)
    detail = PUBLIC_DETAILS.get(type(error), str(error))
    return problem(
        status, error.code, detail, field=getattr(error, "field", None), retry_after_s=getattr(error, "retry_after_s", None)
    )  # fmt: skip


def _of_http(error: HTTPException) -> Response:
    status = error.code or 500
    allowed = ", ".join(sorted(error.valid_methods or ())) if isinstance(error, MethodNotAllowed) else ""
    detail = NO_SUCH_ADDRESS if status == 404 else (error.description or HTTPStatus(status).phrase)
    response = problem(status, CODES.get(status, "http_error"), f"this address takes {allowed}" if allowed else detail)
    if allowed:
        response.headers["Allow"] = allowed
    return response


def _of_broken_http(_error: ParseException) -> Response:
    """What gunicorn finds when a body is read: chunks that are none."""
    g.is_upload_unread = True  # nobody knows where the next request would begin
    return problem(400, CODES[400], "the request's body is broken: its chunks are not as HTTP has them")


def _of_a_bug(error: Exception) -> Response:
    logger("service").error("request_broke", path=request.path, exc_info=error)
    return problem(500, errors.SpillwayError.code, GENERIC)
