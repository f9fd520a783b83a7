"""Clients that want their jobs whatever happens to the service: they ask until they have a 202, and watch what they can see."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

from client.api import SpillwayClient
from client.errors import ServiceAway, ServiceRefused
from client.models import Job
from tools.chaos.orders import Order

DISK_FULL = 507
PAUSE_S = 0.25
LOOK_EVERY_S = 1.0


@dataclass
class Seen:
    """What clients were told. `answers`: ids that were acknowledged, by the order's number. `ends`: the first terminal state that each job
    was seen in. `texts`: the first transcript that each was seen with."""

    answers: dict[int, list[str]] = field(default_factory=dict)
    ends: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    contradictions: list[str] = field(default_factory=list)

    def compare(self, client: SpillwayClient, job: Job) -> None:
        """What is visible of a job once it has ended must be what it was when it was first seen so."""
        if not job.has_ended:
            if job.id in self.ends:
                self.contradictions.append(f"{job.id} was {self.ends[job.id]} and is {job.state} again")
            return
        if self.ends.setdefault(job.id, job.state) != job.state:
            self.contradictions.append(f"{job.id} was {self.ends[job.id]} and is {job.state}")
        if job.state == "succeeded" and job.id not in self.texts:
            self.texts[job.id] = client.transcript(job.id, format="txt")


@dataclass(frozen=True)
class Recordings:
    short: Path  # what scripted jobs send: they do not listen
    speech: Path


class Crowd:
    """A context: inside it `size` clients send the orders, spread over `seconds`, and one looks at all jobs again and again."""

    def __init__(self, url: str, orders: Sequence[Order], recordings: Recordings, *, callback_url: str, seconds: float, size: int) -> None:
        self.seen = Seen()
        self._url, self._recordings, self._callback_url = url, recordings, callback_url
        self._due: SimpleQueue[tuple[float, Order]] = SimpleQueue()
        begin = time.monotonic()
        for order in orders:
            self._due.put((begin + seconds * order.number / len(orders), order))
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._senders = [threading.Thread(target=self._send_all, name="sender") for _ in range(size)]
        self._looker = threading.Thread(target=self._look, name="looker")

    def __enter__(self) -> "Crowd":
        for thread in (*self._senders, self._looker):
            thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stop.set()
        for thread in (*self._senders, self._looker):
            thread.join()

    def has_sent_all(self) -> bool:
        return not any(sender.is_alive() for sender in self._senders)

    def _send_all(self) -> None:
        with SpillwayClient(self._url) as client:
            while not self._stop.is_set():
                try:
                    due, order = self._due.get_nowait()
                except Empty:
                    return
                self._stop.wait(max(0.0, due - time.monotonic()))
                self._have(client, order)

    def _have(self, client: SpillwayClient, order: Order) -> None:
        job: Job | None = None
        for _ in range(2 if order.is_asked_twice else 1):
            job = self._until_answered(lambda: self._submit(client, order))
            if job is None:
                return
            with self._lock:
                self.seen.answers.setdefault(order.number, []).append(job.id)
        if job and order.cancel_after_s is not None:
            job_id = job.id
            self._stop.wait(order.cancel_after_s)
            self._until_answered(lambda: client.cancel(job_id))

    def _submit(self, client: SpillwayClient, order: Order) -> Job:
        path = self._recordings.speech if order.script is None else self._recordings.short
        metadata = {} if order.script is None else {"script": dict(order.script)}
        callback = self._callback_url if order.wants_callback else None
        return client.submit(path, idempotency_key=order.key, metadata=metadata, callback_url=callback, diarize=order.script is not None)

    def _until_answered(self, ask: Callable[[], Job]) -> Job | None:
        """None only when the run is over. A refusal that a client would not bear is a contradiction."""
        while not self._stop.is_set():
            try:
                return ask()
            except ServiceAway:
                self._stop.wait(PAUSE_S)
            except ServiceRefused as refused:
                if refused.status not in (429, 503, DISK_FULL):
                    self._contradict(f"refused with {refused.status} {refused.code}: {refused.message}")
                    return None
                self._stop.wait(PAUSE_S)
        return None

    def _look(self) -> None:
        with SpillwayClient(self._url) as client:
            while not self._stop.wait(LOOK_EVERY_S):
                try:
                    for job in every_job(client):
                        self.seen.compare(client, job)
                except (ServiceAway, ServiceRefused):
                    continue

    def _contradict(self, what: str) -> None:
        with self._lock:
            self.seen.contradictions.append(what)


def every_job(client: SpillwayClient) -> list[Job]:
    """Newest first, through the pages of the list."""
    jobs: list[Job] = []
    cursor: str | None = None
    while True:
        page = client.jobs(limit=100, cursor=cursor)
        jobs.extend(page.jobs)
        cursor = page.next
        if cursor is None:
            return jobs
