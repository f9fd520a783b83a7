"""A plain Celery queue on Redis, with the settings that its users usually choose: what `make bench-queue` puts beside ours.

`python -m celery --app tools.queue_bench.plain_app worker` with `PLAIN_QUEUE_REDIS` in the environment. Its work is a job's own without
the models: the recording is decoded by ffmpeg, and a line of the journal says when it began and when it was done.
"""

import json
import os
import time
from pathlib import Path

from celery import Celery

from core.media import Ffmpeg

QUEUE = "plain"
app = Celery("plain", broker=os.environ.get("PLAIN_QUEUE_REDIS"), set_as_current=False)
app.conf.update(
    task_default_queue=QUEUE,
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)


@app.task(name="plain.work")
def work(job: str, recording: str, journal: str, ffmpeg: str, seconds: float) -> None:
    note(Path(journal), job, "begin")
    Ffmpeg(ffmpeg).decode(Path(recording))
    time.sleep(seconds)
    note(Path(journal), job, "end")


def note(journal: Path, job: str, event: str) -> None:
    """One write, so that many threads may."""
    with journal.open("ab", buffering=0) as lines:
        lines.write((json.dumps({"job": job, "event": event, "at": time.time()}) + "\n").encode())
