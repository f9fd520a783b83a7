"""What can go wrong between a client and the service.

SpillwayError            by itself: an address, an API key or an id that is none; nothing was sent
├── ServiceRefused       the service answered with a problem: `status`, `code`, `message`, `field`
│   └── ServiceBusy      429, 503: worth another try after `retry_after_s`
└── ServiceAway          no answer: not running, not reachable, or broken off
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
            str(problem.get("detail") or f"the service answered {response.status_code} {response.reason_phrase}"),
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


def refusal(response: httpx.Response) -> ServiceRefused:
    return (ServiceBusy if response.status_code in (429, 503) else ServiceRefused).read(response)


def _problem(response: httpx.Response) -> dict[str, str]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _seconds(retry_after: str | None) -> float:
    return float(retry_after) if retry_after and retry_after.isdigit() else 1.0
