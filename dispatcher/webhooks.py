"""Webhooks: one signed request per try, to an address that was checked just now; nothing of the answer counts but its status."""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from time import monotonic
from typing import Any

import httpx
from standardwebhooks import Webhook

from core.errors import CallerError
from core.job import Job
from core.moments import rfc3339
from core.outbox import Answer, Delivery, DeliveryState
from core.urls import without_query
from dispatcher.guard import Guard
from dispatcher.outbound import guarded_client, retry_after_s
from dispatcher.sending import Tried, failed, stopped

RESOLVE_S = 5.0
TRY_S = 10.0  # to the last header of the answer; a connection or handshake begun by then has …
CONNECT_S = 4.0  # … so much longer: no try lasts over 15 s
MOST_BYTES = 20_000  # what Standard Webhooks asks senders to stay below
LEFT_OUT_FIRST = ("options", "metadata", "warnings", "source")  # of an event that would be larger: those a client sent or can ask for
COPIED = {"id", "state", "attempt", "losses", "filename"}


class TookTooLong(Exception):
    """The receiver had its time."""


class WebhookSender:
    """A `Send`; safe to be called from several threads."""

    def __init__(self, guard: Guard, secrets: Sequence[str], *, try_s: float = TRY_S) -> None:
        """Every one of `secrets` signs, so that a receiver may know any of them."""
        self._guard, self._signers, self._try_s = guard, tuple(map(Webhook, secrets)), try_s
        self._timeout = httpx.Timeout(min(CONNECT_S, try_s), read=try_s)
        self._tls = httpx.create_ssl_context(trust_env=False)

    def __call__(self, delivery: Delivery, check: Callable[[], None]) -> Tried:
        body = event(delivery.job)
        deadline = monotonic() + self._try_s

        def watch() -> None:
            check()
            if monotonic() > deadline:
                raise TookTooLong

        try:
            with (
                guarded_client(self._guard, tls=self._tls, watch=watch, timeout=self._timeout) as http,
                http.stream("POST", delivery.owed.target, content=body.encode(), headers=self._headers(delivery.id, body)) as response,
            ):
                return _read(response)
        except CallerError as error:  # the guard's
            return failed(str(error))
        except (TookTooLong, httpx.TimeoutException):
            return failed("no answer in time")
        except httpx.ProtocolError:  # its own text would hold what the receiver sent
            return failed("the receiver hung up, or what it answers is not HTTP")
        except (httpx.InvalidURL, UnicodeError) as error:  # the latter of hosts such as xn--a, which no name is written as
            return failed(f"not a URL that can be reached: {error}")
        except httpx.TransportError as error:
            return failed(f"the connection failed ({str(error) or type(error).__name__})")

    def _headers(self, event_id: str, body: str) -> dict[str, str]:
        now = datetime.now(UTC)
        return {
            "Content-Type": "application/json",
            "webhook-id": event_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signer.sign(event_id, now, body) for signer in self._signers),
        }


def event(job: Job) -> str:
    """The body, the same on every try."""
    data, left_out = _view(job), list[str]()
    while len((text := _text(job, {**data, "left_out": left_out})).encode()) > MOST_BYTES and len(left_out) < len(LEFT_OUT_FIRST):
        left_out.append(LEFT_OUT_FIRST[len(left_out)])
        del data[left_out[-1]]
    return text


def _text(job: Job, data: Mapping[str, Any]) -> str:
    assert job.finished_at is not None
    return json.dumps(
        {"type": f"job.{job.state}", "timestamp": rfc3339(job.finished_at), "data": data}, ensure_ascii=False, separators=(",", ":")
    )


def _view(job: Job) -> dict[str, Any]:
    """The job as the API shows it, without what can only be said of one that waits."""
    return {
        **job.model_dump(mode="json", include=COPIED),
        "created_at": rfc3339(job.created_at),
        "started_at": None if job.started_at is None else rfc3339(job.started_at),
        "finished_at": None if job.finished_at is None else rfc3339(job.finished_at),
        "duration_s": job.duration_s if job.input_key else None,
        "source": without_query(job.source) if job.source else None,
        "options": job.options.model_dump(mode="json", exclude={"metadata"}),
        "metadata": job.options.metadata,
        "warnings": [warning.model_dump(mode="json") for warning in job.warnings],
        "error": job.error and job.error.model_dump(),
        "transcript": f"/v1/jobs/{job.id}/transcript" if job.result_key else None,
    }


def _read(response: httpx.Response) -> Tried:
    status = response.status_code
    if response.is_success:
        return Tried(DeliveryState.DELIVERED, Answer(status=status))
    if status == httpx.codes.GONE:
        return stopped("the receiver wants no more of it", status=status)
    if response.is_redirect:
        return failed("the receiver redirects, which is not followed: name the address itself", status=status)
    return failed("the receiver did not take it", status=status, after_s=retry_after_s(response))
