"""HTTP to where a client pointed us, for sources and webhooks: every request goes to an address that the guard checked just now."""

import ssl
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from time import monotonic
from typing import Any

import httpcore
import httpx

from dispatcher.guard import Guard

TIMEOUT = httpx.Timeout(10.0, read=30.0)  # per address to connect to, per silence of a server
SLICE_S = 0.5  # how long a wait for a byte goes without a look at the watch
Watch = Callable[[], None]  # called before every connection and wait; what it raises ends the request


def guarded_client(guard: Guard, *, tls: ssl.SSLContext, watch: Watch = lambda: None, timeout: httpx.Timeout = TIMEOUT) -> httpx.Client:
    """A client that follows no redirect, keeps no cookie and no connection, knows no proxy and sends no credentials of ours.

    Its requests raise `SourceRefused` and `SourceUnreachable` beside httpx's own errors. TLS is verified for the URL's own name.
    """
    return httpx.Client(
        transport=GuardedTransport(guard, tls=tls, watch=watch),
        timeout=timeout,
        trust_env=False,
        follow_redirects=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        headers={"User-Agent": "spillway", "Accept-Encoding": "identity", "Connection": "close"},
    )


def retry_after_s(response: httpx.Response) -> float:
    """0 when the server does not say, or says it unreadably."""
    said = response.headers.get("Retry-After", "")
    if said.isdecimal() and said.isascii():
        return float(said[:9])
    try:
        return max(0.0, (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError):  # the last of years and time zones with twenty digits
        return 0.0


class GuardedTransport(httpx.HTTPTransport):
    """httpx's own transport with one thing changed: who opens its connections."""

    def __init__(self, guard: Guard, *, tls: ssl.SSLContext, watch: Watch) -> None:
        super().__init__(verify=tls, trust_env=False)
        self._guard = guard
        # httpx hands no network backend through, httpcore takes one; a resolver that changes its answer shows in the tests if this slips.
        backend = GuardedBackend(guard, watch)
        self._pool = httpcore.ConnectionPool(ssl_context=tls, network_backend=backend, max_keepalive_connections=0)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self._guard.check_url(request.url)
        return super().handle_request(request)


class GuardedBackend(httpcore.NetworkBackend):
    def __init__(self, guard: Guard, watch: Watch) -> None:
        self._guard, self._watch, self._plain = guard, watch, httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """To the first of the checked addresses that answers, by number, so that nothing is resolved a second time."""
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in self._guard.addresses(host, port):
            self._watch()
            try:
                stream = self._plain.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return WatchedStream(stream, self._watch)
        raise failure


class WatchedStream(httpcore.NetworkStream):
    """Waits in slices, so that a cancel, a deadline or a slow drip ends a read that would go on and on."""

    def __init__(self, stream: httpcore.NetworkStream, watch: Watch) -> None:
        self._stream, self._watch = stream, watch

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        deadline = monotonic() + (TIMEOUT.read or 0.0 if timeout is None else timeout)
        while True:
            self._watch()
            left = deadline - monotonic()
            try:
                return self._stream.read(max_bytes, timeout=max(min(left, SLICE_S), 0.001))
            except httpcore.ReadTimeout:
                if left <= SLICE_S:
                    raise

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._watch()
        self._stream.write(buffer, timeout)

    def start_tls(self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None) -> "WatchedStream":
        self._watch()
        return WatchedStream(self._stream.start_tls(ssl_context, server_hostname, timeout), self._watch)

    def close(self) -> None:
        self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
