"""What every request goes through: how long silence lasts, which headers go out, one line in the log."""

import socket
import struct
from contextlib import suppress
from functools import partial
from time import monotonic

from flask import Flask, Response, g, request

from core.log import logger

SILENCE_S = 60  # a client that neither sends nor takes a byte for so long gives its thread back
LINGER_S = 1.0
RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # who has not ended by then and waits for room to send would not hear of an orderly end
QUIET = ("/healthz", "/readyz", "/metrics")  # asked every few seconds: logged at debug
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
DOCS_POLICY = "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"


def register(app: Flask) -> None:
    app.before_request(_begin)
    app.after_request(_finish)


def _begin() -> None:
    g.began = monotonic()
    if (connection := request.environ.get("gunicorn.socket")) is not None:
        connection.settimeout(SILENCE_S)


def _finish(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    if request.path.startswith("/docs"):
        response.headers["Content-Security-Policy"] = DOCS_POLICY
    _log_when_sent(response)
    if g.get("is_upload_unread") and (connection := request.environ.get("gunicorn.socket")) is not None:
        response.call_on_close(partial(hang_up, connection))
    return response


def hang_up(connection: socket.socket) -> None:
    """Takes for a moment what a client still sends, so that it reads our answer and no reset, and ends the connection."""
    deadline = monotonic() + LINGER_S
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        while (left := deadline - monotonic()) > 0:
            connection.settimeout(left)
            if not connection.recv(64 * 1024):
                return
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        connection.shutdown(socket.SHUT_RDWR)
        while connection.recv(64 * 1024):  # a client whose bytes fill the buffers would not hear of it; there is an end, nothing comes in
            pass


def _log_when_sent(response: Response) -> None:
    """A stream's line comes when it ends; by then the request's context is gone, so what it says is gathered here."""
    began = g.get("began", monotonic())
    route = request.url_rule.rule if request.url_rule else "none"
    said = {"method": request.method, "route": route, "status": response.status_code}
    job_id = g.get("job_id") or (request.view_args or {}).get("job_id")
    optional = {"job_id": job_id, "code": g.get("problem_code"), "key_id": g.get("key_id")}
    said |= {name: value for name, value in optional.items() if value}
    log = logger("service")
    write = log.debug if request.path in QUIET else log.info
    response.call_on_close(lambda: write("request", seconds=round(monotonic() - began, 4), **said))
