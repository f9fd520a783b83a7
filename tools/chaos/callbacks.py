"""A receiver of webhooks that is not always well: what must reach it, reaches it in the end, under one id."""

import json
import threading
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

REFUSALS = 0.2  # share of deliveries that it answers with 500, …
MOST_REFUSALS = 2  # … of one job: a third pause would be minutes


class Receiver:
    """A context. `taken`: of each job, the ids of the events that it answered with 200."""

    def __init__(self, seed: int) -> None:
        self.taken: dict[str, list[str]] = defaultdict(list)
        self._random, self._lock = Random(seed), threading.Lock()
        self._refused: Counter[str] = Counter()
        self.url = ""  # inside it

    def answer(self, event: dict[str, Any], event_id: str) -> int:
        with self._lock:
            job_id = str(event["data"]["id"])
            if self._refused[job_id] < MOST_REFUSALS and self._random.random() < REFUSALS:
                self._refused[job_id] += 1
                return 500
            self.taken[job_id].append(event_id)
            return 200

    def __enter__(self) -> "Receiver":
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _visit_to(self))
        self._thread = threading.Thread(target=self._server.serve_forever, name="receiver")
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/done"
        return self

    def __exit__(self, *raised: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _visit_to(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Visit(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(receiver.answer(event, self.headers["webhook-id"]))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    return Visit
