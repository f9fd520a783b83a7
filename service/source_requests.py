"""Requests that name a source: a JSON document in place of a form, with the same options."""

from typing import Any

from flask import Request, g
from werkzeug.exceptions import BadRequest, ClientDisconnected, RequestTimeout

from core.errors import InvalidRequest, TooLarge
from core.gs_address import Place
from core.urls import GS, check_url
from service.validation import check_known, json_object

MEDIA_TYPE = "application/json"
DOCUMENT_BYTES = 256 * 1024  # 16,000 characters of metadata and 4,000 of prompt, each escaped in 12 bytes at most, and three addresses
SCHEMES = ("https", "http", "gs")


def fields_of(request: Request) -> dict[str, Any]:
    """The document's fields; null counts as absent. Raises `InvalidRequest`, `TooLarge` and werkzeug's 400 and 408."""
    document = json_object(_body(request), "body")
    if "file" in document:
        raise InvalidRequest(
            "file: a JSON document holds no recording: give its URL as `source`, or upload it as multipart/form-data", field="file"
        )
    for name in document:
        check_known(name)
    given = {name: value for name, value in document.items() if value is not None}
    if "source" not in given:
        raise InvalidRequest("there is no source: give its URL, or upload the recording as multipart/form-data", field="source")
    return given


def checked_source(source: object) -> str:
    """Raises `InvalidRequest`."""
    if not isinstance(source, str):
        raise InvalidRequest("source: must be a URL", field="source")
    if source.startswith(GS):
        if not Place.parse(source, field="source").name:
            raise InvalidRequest("source: names a bucket alone: write gs://bucket/name", field="source")
        return source
    check_url(source, field="source", schemes=SCHEMES)
    return source


def _body(request: Request) -> bytes:
    """All of it, bounded whatever length was announced."""
    if (request.content_length or 0) > DOCUMENT_BYTES:
        raise _too_large()
    request.max_content_length = DOCUMENT_BYTES + 1
    try:
        body = request.stream.read(DOCUMENT_BYTES + 1)
    except ClientDisconnected as gone:
        if isinstance(gone.__context__, TimeoutError):
            raise RequestTimeout("the request stood still for too long") from None
        raise BadRequest("the request broke off") from None
    if len(body) > DOCUMENT_BYTES:
        raise _too_large()
    g.is_upload_unread = False
    return body


def _too_large() -> TooLarge:
    return TooLarge(f"the JSON document is larger than {DOCUMENT_BYTES // 1024} kB: its options need no more")
