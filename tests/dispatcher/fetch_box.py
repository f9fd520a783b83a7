"""A fetcher with all that it works with, and servers that it fetches from."""

import io
import os
import threading
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from core.fetches import Fetches
from core.file_store import FileStore
from core.job import ANONYMOUS, Job, JobOptions, NewJob, Stage
from core.job_store import JobStore
from core.leased import Lease
from core.local_file_store import LocalFileStore
from core.media import Ffmpeg
from core.redis_steps import connect
from dispatcher.fetching import Fetcher, Limits, Stores
from dispatcher.guard import Guard
from dispatcher.http_fetch import HttpFetch
from dispatcher.landing import Fetch
from tests.conftest import wait_for
from tests.dispatcher.source_server import SourceServer, Visit, file


def wav(seconds: float) -> bytes:
    content = io.BytesIO()
    with wave.open(content, "wb") as recording:
        recording.setparams((1, 2, 16_000, 0, "NONE", ""))
        recording.writeframes(bytes(2 * round(seconds * 16_000)))
    return content.getvalue()


TALK = wav(20)  # 640 kB


class FetchBox:
    """A dispatcher's fetcher with all that it works with, stepped by the test."""

    def __init__(self, redis_url: str, folder: Path, ffmpeg: str, files: FileStore | None = None) -> None:
        self.redis = connect(redis_url, retries=0)
        self.jobs, self.folder = JobStore(self.redis), folder
        self.fetches, self.files = Fetches(self.redis, self.jobs), files or LocalFileStore(folder)
        self._ffmpeg, self.made = Ffmpeg(ffmpeg), list[Fetcher]()
        http = HttpFetch(Guard(("127.0.0.1/32",)), max_bytes=10**6)
        self.schemes: dict[str, Fetch] = {"http": http, "https": http}

    def fetcher(self, owner: str = "me", *, lease_s: float = 60.0, most_at_once: int = 4, pause_s: float = 0.0) -> Fetcher:
        limits = Limits(most_at_once, 10**6, 25.0, lease_s / 4)
        stores = Stores(self.fetches, self.jobs, self.files)
        lease = Lease(owner, lease_s, 3)
        self.made.append(Fetcher(stores, self._ffmpeg, self.schemes, lease, limits=limits, pause_s=lambda _failures: pause_s))
        return self.made[-1]

    def submit(self, source: str, *, key_id: str = ANONYMOUS, **options: object) -> str:
        job = NewJob(id=uuid4().hex, key_id=key_id, source=source, filename="talk.wav", options=JobOptions.model_validate(options))
        return self.jobs.submit(job, max_queued=1000)[0].id

    def stepped(self, fetcher: Fetcher, is_so: Callable[[], object], what: str) -> None:
        def step() -> object:
            fetcher.step()
            return is_so()

        wait_for(step, what)

    def settled(self, fetcher: Fetcher, job_id: str) -> Job:
        """The job once it is pending or has ended."""
        self.stepped(fetcher, lambda: self.jobs.get(job_id).stage != Stage.FETCHING, "the fetch to end")
        return self.jobs.get(job_id)

    def left(self) -> list[str]:
        """While folders that have become empty go."""
        found = (Path(folder, name) for folder, _, names in os.walk(self.folder) for name in names)
        return sorted(str(path.relative_to(self.folder)) for path in found)

    def close(self) -> None:
        for fetcher in self.made:
            fetcher.close()
        self.redis.close()


@pytest.fixture
def box(redis_url: str, tmp_path: Path, ffmpeg: str) -> Iterator[FetchBox]:
    made = FetchBox(redis_url, tmp_path / "files", ffmpeg)
    yield made
    made.close()


@pytest.fixture
def server() -> Iterator[SourceServer]:
    with SourceServer({"/talk.wav": file(TALK)}) as running:
        yield running


class Dam:
    """An answer that gives half the recording and then waits for the test."""

    def __init__(self) -> None:
        self.is_reached, self.opened = threading.Event(), threading.Event()

    def __call__(self, visit: Visit) -> None:
        visit.head(200, Content_Length=str(len(TALK)))
        visit.wfile.write(TALK[:300_000])
        self.is_reached.set()
        while not self.opened.wait(0.05):
            visit.wfile.write(b"")
        visit.wfile.write(TALK[300_000:])


@pytest.fixture
def dam(server: SourceServer) -> Iterator[Dam]:
    built = Dam()
    server.answers["/slow.wav"] = built
    yield built
    built.opened.set()
