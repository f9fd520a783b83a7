"""What can go wrong between a client and the service.

SpillwayError            by itself: an address, an API key or an id that is none; nothing was sent
├── ServiceRefused       the service answered with a problem: `status`, `code`, `message`, `field`
│   └── ServiceBusy      429, 503: worth another try after `retry_after_s`
├── ServiceAway          no answer: not running, not reachable, or broken off
└── NotTheService        an answer of somebody else's: another program on that port, or a proxy's page
"""

from typing import Self

import httpx


class SpillwayError(Exception):
    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.message, self.code = message, code


class ServiceRefused(SpillwayError):
    def __init__(self, message: str, *, code: str, status: int, field: str | None = None, retry_after_s: float = 1.0) -> None:
        super().__init__(message, code=code)
        self.status, self.field, self.retry_after_s = status, field, retry_after_s

    @classmethod
    def read(cls, response: httpx.Response) -> Self:
        """From a response whose body has been read."""
        problem = _problem(response)
        return cls(
            str(problem.get("detail") or f"the service answered {response.status_code} {response.reason_phrase}{_whereto(response)}"),
            code=str(problem.get("code", "http_error")),
            status=response.status_code,
            field=problem.get("field"),
            retry_after_s=_seconds(response.headers.get("Retry-After")),
        )


class ServiceBusy(ServiceRefused):
    pass


class ServiceAway(SpillwayError):
    def __init__(self, message: str) -> None:
        super().__init__(message, code="service_away")


class NotTheService(SpillwayError):
    def __init__(self, base_url: str) -> None:
        super().__init__(
            f"what answers at {base_url} is not the service: is that its address, or does a proxy before it want you to sign in?",
            code="not_the_service",
        )


def refusal(response: httpx.Response) -> ServiceRefused:
    return (ServiceBusy if response.status_code in (429, 503) else ServiceRefused).read(response)


def _problem(response: httpx.Response) -> dict[str, str]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _whereto(response: httpx.Response) -> str:
    """A proxy that redirects from http to https, say."""
    return f" and points to {response.headers['Location']}: is that its address?" if response.has_redirect_location else ""


def _seconds(retry_after: str | None) -> float:
    return float(retry_after) if retry_after and retry_after.isascii() and retry_after.isdecimal() else 1.0
