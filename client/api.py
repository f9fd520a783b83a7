"""The typed client of a Spillway service."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote
from uuid import uuid4

import httpx

from client.errors import NotTheService, ServiceAway, ServiceBusy, SpillwayError, refusal
from client.models import Delivery, Job, JobPage, Queue
from client.sse import events

DEFAULT_URL = "http://127.0.0.1:8000"
STREAM_SILENCE_S = 30.0  # the service's heartbeats come every 10 s
POLL_S = 1.0
PATIENCE_S = 120.0  # how long a wait bears a service that is away: long enough for a restart
BUSY_TRIES = 5
LONGEST_PAUSE_S = 60.0  # however long a busy service asks for

UploadProgress = Callable[[int, int], None]  # bytes sent, bytes in all
OnChange = Callable[[Job], None]
OnBusy = Callable[[ServiceBusy, float], None]  # what it said, and the seconds until the next try


class SpillwayClient:
    """Every method raises `ServiceRefused` with the service's code and message, `ServiceAway` or `NotTheService`; for an address, a key
    or an id that is none a bare `SpillwayError`, before anything is sent."""

    def __init__(self, base_url: str = DEFAULT_URL, *, api_key: str | None = None, timeout_s: float = 30.0) -> None:
        url = _address(base_url)
        is_local = url.host in ("127.0.0.1", "localhost", "::1")
        # No proxy stands before loopback. Redirects are not followed: the service sends none, and the key is for it alone.
        self._http = httpx.Client(
            base_url=url, timeout=timeout_s, trust_env=not is_local, follow_redirects=False, headers=_credentials(api_key)
        )
        self._timeout_s, self._base_url = timeout_s, base_url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(
        self,
        path: Path | None = None,
        *,
        source: str = "",
        idempotency_key: str = "",
        on_upload: UploadProgress | None = None,
        on_busy: OnBusy | None = None,
        **options: Any,
    ) -> Job:
        """Sends a recording, streaming it from the disk, or the URL of one, which the service fetches.

        Options are the service's own. Tries again while the service is busy.
        """
        if (path is None) == (not source):
            raise ValueError("give either a path or a source")
        key = idempotency_key or uuid4().hex  # a refusal may hide that the job was taken: then the next try finds it
        for tries_left in reversed(range(BUSY_TRIES)):
            try:
                if path is None:
                    return self._submit_source({"source": source, **options}, key)
                return self._submit_file(path, key, on_upload, _form(options))
            except ServiceBusy as busy:
                if not tries_left:
                    raise
                pause_s = _pause_s(busy)
                if on_busy:
                    on_busy(busy, pause_s)
                time.sleep(pause_s)
        raise AssertionError("unreachable")

    def job(self, job_id: str) -> Job:
        return Job.read(self._json("GET", _path(job_id)))

    def jobs(self, *, limit: int = 50, cursor: str | None = None, state: str | None = None) -> JobPage:
        asked = {"limit": limit, "cursor": cursor, "state": state}
        page = self._json("GET", "/v1/jobs", params={name: value for name, value in asked.items() if value is not None})
        return JobPage(tuple(Job.read(job) for job in page["jobs"]), page["next"])

    def wait(self, job_id: str, on_change: OnChange | None = None) -> Job:
        """The job once it has ended, by its events; by polling while the stream is refused or breaks, also over a restart."""
        away_since: float | None = None
        while True:
            pause_s = POLL_S
            try:
                for job in self._changes(job_id):
                    away_since = None
                    if on_change:
                        on_change(job)
                    if job.has_ended:
                        return job
            except (ServiceAway, ServiceBusy) as error:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > PATIENCE_S:
                    raise
                pause_s = _pause_s(error)
            time.sleep(pause_s)

    def transcript(self, job_id: str, format: str = "json") -> str:
        return self._send("GET", f"{_path(job_id)}/transcript", params={"format": format}).text

    def deliveries(self, job_id: str) -> tuple[Delivery, ...]:
        """What became of its webhook and its output."""
        return tuple(Delivery.read(delivery) for delivery in self._json("GET", f"{_path(job_id)}/deliveries")["deliveries"])

    def cancel(self, job_id: str) -> Job:
        return Job.read(self._json("POST", f"{_path(job_id)}/cancel"))

    def delete(self, job_id: str) -> None:
        self._send("DELETE", _path(job_id))

    def queue(self) -> Queue:
        return Queue.read(self._json("GET", "/v1/queue"))

    def _submit_source(self, document: dict[str, Any], idempotency_key: str) -> Job:
        return Job.read(self._json("POST", "/v1/jobs", json=document, headers={"Idempotency-Key": idempotency_key}))

    def _submit_file(self, path: Path, idempotency_key: str, on_upload: UploadProgress | None, form: dict[str, str]) -> Job:
        headers = {"Idempotency-Key": idempotency_key}
        # The answer comes after the service has read the whole recording through, which takes longer than any other call.
        timeout = httpx.Timeout(self._timeout_s, read=600)
        with _WatchedFile(path, on_upload) as file:
            return Job.read(
                self._json("POST", "/v1/jobs", data=form, files={"file": (_sendable(path.name), file)}, headers=headers, timeout=timeout)
            )  # fmt: skip

    def _changes(self, job_id: str) -> Iterator[Job]:
        """The job now, then on each change, for as long as the stream holds."""
        job = self.job(job_id)
        yield job
        timeout = httpx.Timeout(self._timeout_s, read=STREAM_SILENCE_S)
        with _translated(self._base_url), self._http.stream("GET", f"{_path(job_id)}/events", timeout=timeout) as response:
            if not response.is_success:
                response.read()
                raise refusal(response)
            for event in events(response.iter_lines()):
                if event.name == "job":
                    yield Job.read(json.loads(event.data))

    def _json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        try:
            answer = self._send(method, path, **request).json()
        except (ValueError, RecursionError) as error:
            raise NotTheService(self._base_url) from error
        if not isinstance(answer, dict):
            raise NotTheService(self._base_url)
        return answer

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        with _translated(self._base_url):
            response = self._http.request(method, path, **request)
        if not response.is_success:
            raise refusal(response)
        if response.content and response.headers.get("Content-Type", "").startswith("text/html"):  # a page must not pass for a transcript
            raise NotTheService(self._base_url)
        return response


class _WatchedFile(FileIO):
    """Tells how much of it has been read."""

    def __init__(self, path: Path, on_read: UploadProgress | None) -> None:
        super().__init__(path)
        self._on_read, self._total = on_read, path.stat().st_size

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(-1 if size is None else size) or b""
        if self._on_read:
            self._on_read(self.tell(), self._total)
        return content


def _address(base_url: str) -> httpx.URL:
    with suppress(httpx.InvalidURL):
        url = httpx.URL(base_url)
        if url.scheme in ("http", "https") and url.host:
            return url
    raise SpillwayError(f"{base_url!r} is not the URL of a service: write it like {DEFAULT_URL}", code="malformed_url")


def _path(job_id: str) -> str:
    if not job_id.strip("."):  # as in a path of files it would lead elsewhere, quoted or not
        raise SpillwayError(f"{job_id!r} is no job's id: `spillway jobs` lists those there are", code="malformed_id")
    return f"/v1/jobs/{quote(job_id, safe='', errors='replace')}"


def _sendable(filename: str) -> str:
    """Without the bytes that are no UTF-8: Linux allows them in a file's name, a form does not."""
    return filename.encode(errors="surrogateescape").decode(errors="replace")


def _credentials(api_key: str | None) -> dict[str, str]:
    key = (api_key or "").strip()
    if not key.isascii() or not key.isprintable():
        raise SpillwayError("the API key holds characters that none has: copy it once more", code="malformed_api_key")
    return {"Authorization": f"Bearer {key}"} if key else {}


@contextmanager
def _translated(base_url: str) -> Iterator[None]:
    try:
        yield
    except httpx.RequestError as error:
        why = str(error) or type(error).__name__
        raise ServiceAway(f"the service at {base_url} does not answer ({why}): is it up, and is that its address?") from error


def _pause_s(error: ServiceAway | ServiceBusy) -> float:
    return min(max(error.retry_after_s, POLL_S), LONGEST_PAUSE_S) if isinstance(error, ServiceBusy) else POLL_S


def _form(options: dict[str, Any]) -> dict[str, str]:
    return {name: _field(value) for name, value in options.items() if value is not None}


def _field(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)  # true and false, numbers, and metadata as JSON
