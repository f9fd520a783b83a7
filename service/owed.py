"""What a job owes to the outside when it ends, as its client asks for it."""

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import JsonValue

from core.errors import InvalidRequest
from core.gs_address import LONGEST_NAME, Place
from core.outbox import DeliveryKind, Owed
from core.settings import Settings, variable
from core.storage import bucket_of, is_ours
from core.urls import check_url

SCHEMES = ("https", "http")
NO_SECRET = (
    f"callback_url: this service has no secret to sign webhooks with: its operator sets {variable('webhook_secret')},"
    " or leave the field out and ask for the job"
)
LONGEST_PREFIX = LONGEST_NAME - 64  # room for a job's id and the name of a format


def deliveries_of(fields: Mapping[str, Any], settings: Settings) -> tuple[dict[str, JsonValue], ...]:
    """From the fields of either kind of request; an empty field counts as absent. Raises `InvalidRequest`."""
    return tuple(owed.model_dump(mode="json") for owed in _owed(fields, settings))


def _owed(fields: Mapping[str, Any], settings: Settings) -> Iterator[Owed]:
    if url := _text(fields, "callback_url", "a URL"):
        check_url(url, field="callback_url", schemes=SCHEMES)
        if not settings.webhook_secret:
            raise InvalidRequest(NO_SECRET, field="callback_url")
        yield Owed(kind=DeliveryKind.WEBHOOK, target=url, host=str(urlsplit(url).hostname))
    if prefix := _text(fields, "output", "a prefix such as gs://bucket/talks"):
        yield Owed(kind=DeliveryKind.OUTPUT, target=prefix, host=_checked(prefix, bucket_of(settings)).bucket)


def _text(fields: Mapping[str, Any], name: str, what: str) -> str:
    if (value := fields.get(name)) is None:
        return ""
    if not isinstance(value, str):
        raise InvalidRequest(f"{name}: must be {what}", field=name)
    return value


def _checked(prefix: str, own: Place | None) -> Place:
    """What can be known without asking Google: whether the bucket is there and ours to write is told by the deliveries."""
    place = Place.parse(prefix, field="output")
    if len(place.name.encode()) > LONGEST_PREFIX:
        raise InvalidRequest(f"output: longer than {LONGEST_PREFIX} bytes", field="output")
    if is_ours(place, own):
        raise InvalidRequest(f"output: {place} is where this installation keeps files of its own: name another prefix", field="output")
    return place
