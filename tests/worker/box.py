"""A store, a file store and leases, joined as the worker's composition root joins them, around an engine of the test's own."""

import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from core.file_store import FileStore, input_key
from core.job import Job, JobOptions, NewJob
from core.job_store import JobStore, Runner
from core.local_file_store import LocalFileStore
from core.media import Ffmpeg
from core.redis_steps import connect
from core.transcript import Models, Notice, Run, Transcript
from worker.attempt import Recordings
from worker.leases import Leases, Rhythm
from worker.runner import JobRunner, Limits
from worker.work import Transcribe, Work

ME = Runner("slot", "boot")
RHYTHM = Rhythm(lease_s=60, heartbeat_s=15, news_s=0.02)


def transcript(work: Work, *warnings: Notice) -> Transcript:
    return Transcript(
        language="en", language_probability=None, duration_s=work.duration_s, segments=(), turns=(), speakers=(), warnings=warnings,
        models=Models(asr="fake", alignment=None, segmentation=None, embedding=None),
        run=Run(runner="local", attempt=work.attempt, device="cpu", stages_s={}, real_time_factor=1.0),
    )  # fmt: skip


class Box:
    """A store, a file store and a runner, as the worker's composition root joins them."""

    def __init__(self, redis_url: str, folder: Path, ffmpeg: str) -> None:
        self.redis = connect(redis_url)
        self.store = JobStore(self.redis)
        self.files: FileStore = LocalFileStore(folder)
        self.ffmpeg = Ffmpeg(ffmpeg)
        self.leases = Leases(self.store, ME, RHYTHM, lambda: None)
        self.reasons: list[str] = []
        self.leases.start()

    def runner(self, transcribe: Transcribe, *, audio_s: float = 3600) -> JobRunner:
        limits = Limits(lease_s=60, max_audio_in_flight_s=audio_s, max_failures=2)
        media = Recordings(self.files, self.ffmpeg)
        return JobRunner(transcribe, self.leases, media=media, store=self.store, limits=limits, give_up=self.reasons.append)

    def submit(self, content: bytes | None = None, *, duration_s: float = 1.0, **options: Any) -> Job:
        job_id = uuid4().hex
        stored = self.files.write(input_key(job_id), wav(1.0) if content is None else content)
        job = NewJob(
            id=job_id, duration_s=duration_s, filename="a.wav", input_key=stored.key, input_bytes=stored.bytes, input_sha256=stored.sha256,
            options=JobOptions(**options),
        )  # fmt: skip
        return self.store.submit(job, max_queued=100)[0]

    def close(self) -> None:
        self.leases.stop()
        self.redis.close()


def wav(seconds: float) -> bytes:
    samples = int(seconds * 16000)
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + 2 * samples, b"WAVE", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16, b"data", 2 * samples
    )
    return header + bytes(2 * samples)


def in_thread(act: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=act)
    thread.start()
    return thread
