"""What a job owes to the outside when it ends, as its client asks for it."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import JsonValue

from core.errors import InvalidRequest
from core.outbox import DeliveryKind, Owed
from core.settings import Settings, variable
from core.urls import check_url

SCHEMES = ("https", "http")
NO_SECRET = (
    f"callback_url: this service has no secret to sign webhooks with: its operator sets {variable('webhook_secret')},"
    " or leave the field out and ask for the job"
)


def deliveries_of(fields: Mapping[str, Any], settings: Settings) -> tuple[dict[str, JsonValue], ...]:
    """From the fields of either kind of request; an empty field counts as absent. Raises `InvalidRequest`."""
    url = fields.get("callback_url")
    if url in (None, ""):
        return ()
    if not isinstance(url, str):
        raise InvalidRequest("callback_url: must be a URL", field="callback_url")
    check_url(url, field="callback_url", schemes=SCHEMES)
    if settings.webhook_secret is None:
        raise InvalidRequest(NO_SECRET, field="callback_url")
    owed = Owed(kind=DeliveryKind.WEBHOOK, target=url, host=str(urlsplit(url).hostname))
    return (owed.model_dump(mode="json"),)
