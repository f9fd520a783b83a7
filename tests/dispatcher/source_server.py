"""A server on loopback whose answers a test writes, down to the last byte."""

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CERTIFICATE = Path(__file__).parent.parent / "data" / "tls" / "source.test.pem"  # of source.test, signed by itself


@dataclass(frozen=True)
class Asked:
    path: str
    headers: dict[str, str]
    content: bytes


class Visit(BaseHTTPRequestHandler):
    """One request, as the test's own function sees it."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.close_connection = True
        server = self.server
        assert isinstance(server, _Server)
        content = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        server.asked.append(Asked(self.path, {name.lower(): value for name, value in self.headers.items()}, content))
        try:
            server.answers[self.path.partition("?")[0]](self)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            server.was_left.set()

    do_POST = do_GET

    def say(self, status: int, content: bytes = b"", **headers: str) -> None:
        """A head with its length, and what is given of the body."""
        self.head(status, **{"Content-Length": str(len(content)), **{name.replace("_", "-"): value for name, value in headers.items()}})
        self.wfile.write(content)

    def head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, answers: dict[str, Callable[[Visit], None]], place: tuple[str, int]) -> None:
        super().__init__(place, Visit)
        self.answers, self.asked, self.was_left = answers, [], threading.Event()

    answers: dict[str, Callable[[Visit], None]]
    asked: list[Asked]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up, or does not trust us, is what some tests are about."""


@dataclass
class SourceServer:
    """A context; `answers` may be written while it runs."""

    answers: dict[str, Callable[[Visit], None]] = field(default_factory=dict)
    is_tls: bool = False
    port: int = 0  # any that is free
    address: str = "127.0.0.1"

    def __enter__(self) -> Self:
        self._server = _Server(self.answers, (self.address, self.port))
        self.port = self._server.server_port
        if self.is_tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATE)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def asked(self) -> list[Asked]:
        return self._server.asked

    @property
    def was_left(self) -> threading.Event:
        """Set once a client hung up in the middle of an answer."""
        return self._server.was_left

    def url(self, path: str = "/talk.wav", host: str = "127.0.0.1") -> str:
        return f"{'https' if self.is_tls else 'http'}://{host}:{self.port}{path}"


def redirect(target: str, status: int = 302) -> Callable[[Visit], None]:
    return lambda visit: visit.say(status, Location=target)


def file(content: bytes, *, etag: str = '"v1"', cut_at: int | None = None, part_bytes: int | None = None) -> Callable[[Visit], None]:
    """Whole or in parts as a web server gives it; `cut_at` hangs up there when asked from the start, `part_bytes` always after so many."""

    def answer(visit: Visit) -> None:
        asked = visit.headers.get("Range", "")
        if asked and visit.headers.get("If-Range", etag) == etag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            length, place = str(len(content) - start), f"bytes {start}-{len(content) - 1}/{len(content)}"
            visit.head(206, ETag=etag, Content_Range=place, Content_Length=length)
            visit.wfile.write(content[start:][:part_bytes])
            return
        visit.head(200, **{"Content-Length": str(len(content)), "ETag": etag})
        visit.wfile.write(content[:cut_at][:part_bytes])

    return answer
