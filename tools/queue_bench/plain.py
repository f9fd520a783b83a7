"""The plain Celery queue: what it does with the same jobs."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from redis import Redis

from tools.queue_bench import plain_app
from tools.queue_bench.comparison import IN_FLIGHT, Queue, after_a_kill, compare
from tools.queue_bench.measured import Journal, Measured
from tools.queue_bench.processes import family, fsyncs_per_job
from tools.stack_parts import ffmpeg
from tools.supervisor import Patience, Program, Supervisor

OPTIONS = ("--app", "tools.queue_bench.plain_app", "worker", "--concurrency", str(IN_FLIGHT), "--loglevel", "WARNING")


def measure(redis_url: str, folder: Path, recording: Path, *, jobs: int, kill_patience_s: float) -> Measured:
    with _queue(redis_url, folder, recording) as queue:
        measured = compare(queue, jobs)
        with Redis.from_url(redis_url) as redis:
            server = int(redis.info("server")["process_id"])
        measured.counts["fsyncs per job"] = fsyncs_per_job({"redis": [server]}, queue.run)
        measured.counts |= after_a_kill(queue, kill_patience_s)
    return measured


@contextmanager
def _queue(redis_url: str, folder: Path, recording: Path) -> Iterator[Queue]:
    plain_app.app.conf.update(broker_url=redis_url)
    journal = Journal(folder / "plain")

    def submit(seconds: float) -> str:
        job = uuid4().hex
        plain_app.work.delay(job, str(recording), str(journal.path), ffmpeg(), seconds)
        return job

    def worker() -> list[int]:
        pid = supervisor.pids()["plain"]
        return family(pid) if pid else []

    program = Program("plain", (sys.executable, "-m", "celery", *OPTIONS))
    environment = {**os.environ, "PLAIN_QUEUE_REDIS": redis_url, "PYTHONDONTWRITEBYTECODE": ""}
    with Supervisor([program], environment, folder, say=lambda _: None, patience=Patience(1_000, 1_000)) as supervisor:
        yield Queue(submit, journal.begun_at, journal, worker)
