"""A model hub on loopback that speaks what huggingface_hub 0.36 asks, counts the bytes it serves, and can hold a large file back."""

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

OLD, NEW = "a" * 40, "b" * 40
GATED = "own/gated"
FILES = {"config.json": b"{}", "model.bin": os.urandom(200_000), "tokenizer.json": b"{}", "vocabulary.txt": b"a b", "README.md": b"no"}
PIECE = 1 << 16


class Handler(BaseHTTPRequestHandler):
    hub: "Hub"

    def do_GET(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        status, body, headers = self.hub.answer(unquote(self.path.partition("?")[0]), self.headers["Authorization"])
        start = int((self.headers["Range"] or "bytes=0-")[6:-1])
        if start and status == 200:
            status, headers = 206, headers | {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(max(0, len(body) - start))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self._serve(body, start)

    do_HEAD = do_GET

    def _serve(self, body: bytes, start: int) -> None:
        if not self.path.startswith("/large/"):
            self.wfile.write(body)
            return
        number = len(self.hub.served)
        self.hub.served.append(0)
        for at in range(start, len(body), PIECE):
            if self.hub.holds_at is not None and at >= self.hub.holds_at:
                self.hub.go.wait()
            with suppress(OSError):  # the client was killed
                self.wfile.write(body[at : at + PIECE])
                self.hub.served[number] += len(body[at : at + PIECE])

    def log_message(self, *_: object) -> None:
        pass


class Hub:
    """Serves the same files at every revision it has; model.bin as a large file, behind a redirect as the real one does."""

    def __init__(self, files: Mapping[str, bytes] = FILES) -> None:
        self.files = dict(files)
        self.revisions = {"main": OLD, OLD: OLD}
        self.asked: list[str] = []
        self.large_file_digest: str | None = None
        self.holds_at: int | None = None  # of the large file, until `go`
        self.go = threading.Event()
        self.served: list[int] = []  # bytes of the large file, of each request for it
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("OurHandler", (Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, path: str, authorization: str | None) -> tuple[int, bytes, dict[str, str]]:
        if path.startswith("/api/models/"):
            repository, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            return self._listing(repository, revision or "main")
        if path.startswith("/large/"):
            return 200, self.files[path.removeprefix("/large/")], {}
        owner, name, _, commit, file = path.strip("/").split("/", 4)
        if f"{owner}/{name}" == GATED and authorization != "Bearer hf_good":
            return 401, b"", {"X-Error-Code": "GatedRepo"}
        headers = {"X-Repo-Commit": commit, "ETag": f'"{sha(self.files[file])}"'}
        return (302, b"", headers | {"Location": f"/large/{file}"}) if file == "model.bin" else (200, self.files[file], headers)

    def _listing(self, repository: str, revision: str) -> tuple[int, bytes, dict[str, str]]:
        if repository == "own/nothing":
            return 404, b"", {"X-Error-Code": "RepoNotFound"}
        if revision not in self.revisions:
            return 404, b"", {"X-Error-Code": "RevisionNotFound"}
        siblings: list[dict[str, object]] = [
            {"rfilename": name, "size": len(content), "blobId": "0"} for name, content in self.files.items()
        ]
        for sibling in siblings:
            if sibling["rfilename"] == "model.bin":
                digest = self.large_file_digest or sha(self.files["model.bin"])
                sibling["lfs"] = {"sha256": digest, "size": sibling["size"], "pointerSize": 134}
        return (
            200,
            json.dumps({"id": repository, "sha": self.revisions[revision], "siblings": siblings}).encode(),
            {"Content-Type": "application/json"},
        )

    def moves_on(self) -> None:
        self.revisions |= {"main": NEW, NEW: NEW}

    def close(self) -> None:
        self.go.set()
        self._server.shutdown()
        self._server.server_close()


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
