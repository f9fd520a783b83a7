"""The service as its composition root joins it, in this process or as a real one, and a runner that needs no models."""

import io
import os
import signal
import subprocess
import sys
import wave
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from core.api_keys import ApiKeys, KeySecrets
from core.bursts import Bursts
from core.errors import StoreUnavailable
from core.figures import Figures
from core.file_store import FileStore, result_key
from core.job import Job, Stage
from core.job_store import Beat, JobStore, Runner
from core.local_file_store import LocalFileStore
from core.media import Ffmpeg
from core.outbox import Outbox
from core.redis_steps import connect
from core.request_rates import RequestRates
from core.settings import Settings
from core.transcript import Models, Run, Segment, Speaker, Transcript, Turn
from service.app import make_app
from service.bursts import BurstAccounts
from service.collaborators import Collaborators
from service.places import Places
from tests.conftest import ROOT, files_in, free_port, wait_for

NO_HEADERS: Mapping[str, str] = {}
RUNNER = Runner("slot", "boot")
TIMES = {"avg_logprob": -0.1, "no_speech_prob": 0.0, "compression_ratio": 1.0, "words": ()}
TRANSCRIPT = Transcript(
    language="en", language_probability=None, duration_s=2.0,
    segments=(
        Segment(id=0, start=0.0, end=1.0, text="Good morning.", speaker="SPEAKER_00", **TIMES),
        Segment(id=1, start=1.0, end=2.0, text="Is it?", speaker="SPEAKER_01", **TIMES),
    ),
    turns=(Turn(start=0.0, end=1.0, speaker="SPEAKER_00"), Turn(start=1.0, end=2.0, speaker="SPEAKER_01")),
    speakers=(Speaker(label="SPEAKER_00", total_s=1.0), Speaker(label="SPEAKER_01", total_s=1.0)), warnings=(),
    models=Models(asr="fake", alignment=None, segmentation=None, embedding=None),
    run=Run(runner="local", attempt=1, device="cpu", stages_s={}, real_time_factor=1.0),
)  # fmt: skip


class Box:
    """A service in this process, driven through Flask's test client."""

    def __init__(self, redis_url: str, folder: Path, ffmpeg: str, *, files: FileStore | None = None, **changes: Any) -> None:
        changes = {"access": "open", **changes}
        self.settings = Settings(redis_url=redis_url, file_store_dir=folder, ffmpeg=ffmpeg, asr_model="tiny", **changes)
        self.redis = connect(redis_url, timeout_s=2, retries=1)
        self.jobs, self.files = JobStore(self.redis), files or LocalFileStore(folder)
        self.keys = ApiKeys(self.redis, KeySecrets("s" * 32, first=None))
        self.outbox = Outbox(self.redis, self.jobs)
        self.folder, self.wakeups = folder, 0
        has_keys = self.settings.access == "keys"
        self.streams, self.uploads = Places(2, shared=has_keys), Places(4, shared=has_keys)
        self.is_stopping = False
        self.has_broker = True
        self.http: FlaskClient = make_app(self._collaborators(ffmpeg)).test_client()

    def submit(
        self,
        content: bytes | None = None,
        filename: str = "talk.wav",
        key: str = "",
        headers: Mapping[str, str] = NO_HEADERS,
        **fields: str,
    ) -> TestResponse:
        file = (io.BytesIO(wav(2) if content is None else content), filename)
        headers = {**headers, **({"Idempotency-Key": key} if key else {})}
        form = {"file": file, **fields}
        return self.http.post("/v1/jobs", data=form, headers=headers, content_type="multipart/form-data", buffered=True)

    def submitted(self, **fields: str) -> str:
        response = self.submit(**fields)
        assert response.status_code == 202, response.get_data()
        return str(response.get_json()["id"])

    def claim(self) -> Job:
        job = self.jobs.claim(RUNNER, lease_s=60, fits_s=1e6)
        assert job is not None
        return job

    def stored_files(self) -> list[str]:
        return files_in(self.folder)

    def close(self) -> None:
        self.redis.close()

    def _collaborators(self, ffmpeg: str) -> Collaborators:
        return Collaborators(
            settings=self.settings,
            keys=self.keys if self.settings.access == "keys" else None,
            rates=RequestRates(self.redis),
            jobs=self.jobs,
            figures=Figures(self.redis),
            bursts=BurstAccounts(Bursts(self.redis, self.jobs), self.settings),
            outbox=self.outbox,
            files=self.files,
            ffmpeg=Ffmpeg(ffmpeg),
            wake=self._wake,
            long_requests=self.uploads,
            event_streams=self.streams,
            is_stopping=lambda: self.is_stopping,
        )

    def _wake(self) -> bool:
        self.wakeups += self.has_broker
        return self.has_broker


def commit(jobs: JobStore, files: FileStore, job: Job) -> None:
    key = result_key(job.id, job.attempt)
    stored = files.write(key, TRANSCRIPT.model_dump_json().encode())
    jobs.succeed(job, result_key=key, result_sha256=stored.sha256)


def run_pending(jobs: JobStore, files: FileStore) -> bool:
    """Claims and ends one job as a worker would; whether there was one, and Redis to ask."""
    try:
        job = jobs.claim(RUNNER, lease_s=60, fits_s=1e6)
        if job is not None:
            jobs.beat([Beat(job.id, job.attempt, Stage.ASR, 0.5)], lease_s=60, renew=False)
            commit(jobs, files, job)
    except StoreUnavailable:
        return False
    return job is not None


@dataclass(frozen=True)
class RunningService:
    url: str
    process: "subprocess.Popen[bytes]"
    folder: Path
    log: Path

    @property
    def worker_pid(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])


@contextmanager
def running_service(redis_url: str, tmp_path: Path, ffmpeg: str, **variables: str) -> Iterator[RunningService]:
    """The real thing: gunicorn on loopback, started by its documented command."""
    port, folder, log = free_port(), tmp_path / "files", tmp_path / "service.log"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SPILLWAY_")},
        "SPILLWAY_REDIS_URL": redis_url, "SPILLWAY_FILE_STORE_DIR": str(folder), "SPILLWAY_FFMPEG": ffmpeg,
        "SPILLWAY_PORT": str(port), "SPILLWAY_ASR_MODEL": "tiny", "SPILLWAY_ACCESS": "open", **variables,
    }  # fmt: skip
    command = [sys.executable, "-m", "gunicorn", "--config", "service/gunicorn_conf.py", "service.wsgi:create()"]
    with log.open("wb") as output, subprocess.Popen(command, cwd=ROOT, env=environment, stderr=output, stdout=output) as process:
        service = RunningService(f"http://127.0.0.1:{port}", process, folder, log)
        try:
            wait_for(lambda: process.poll() is not None or is_alive(service.url), "the service to answer")
            assert process.poll() is None, log.read_text()
            yield service
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=40)


def is_alive(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=2).is_success
    except httpx.TransportError:
        return False


def wav(seconds: float) -> bytes:
    """Silence, mono, 16 kHz, 16 bits."""
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(2 * round(seconds * 16_000)))
    return content.getvalue()
