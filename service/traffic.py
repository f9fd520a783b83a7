"""Counts the requests that this process answers, for Prometheus."""

from functools import partial
from time import monotonic

from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry, Counter, Histogram

# From a probe's milliseconds to an upload's minutes; an event stream may last for hours.
BOUNDS_S = (0.005, 0.025, 0.1, 0.5, 1, 5, 30, 120, 600, 3600)


class Traffic:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "spillway_http_requests",
            "Requests answered, by route as it is written in the code.",
            ["method", "route", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "spillway_http_request_duration_seconds",
            "From a request's head to the last byte of its answer; of an event stream, how long it was open.",
            ["method", "route"],
            buckets=BOUNDS_S,
            registry=registry,
        )

    def register(self, app: Flask) -> None:
        app.before_request(_begin)
        app.after_request(self._count_when_sent)

    def _count_when_sent(self, response: Response) -> Response:
        """Without a route the method is anything that a client may write: it is not told."""
        method, route = (request.method, request.url_rule.rule) if request.url_rule else ("other", "none")
        response.call_on_close(partial(self._count, method, route, response.status_code, g.get("counted_from", monotonic())))
        return response

    def _count(self, method: str, route: str, status: int, began: float) -> None:
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(monotonic() - began)


def _begin() -> None:
    g.counted_from = monotonic()
