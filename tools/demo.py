"""`make demo`: the sample through the whole stack on this machine, from an empty data folder to a transcript; nothing is left running."""

import json
import shutil
import signal
import sys
import time
from typing import Any

from rich.console import Console

from client.api import SpillwayClient
from client.display import live_progress, show_transcript
from client.errors import SpillwayError as ClientError
from client.models import Job
from core.errors import SpillwayError
from tools.local_stack import STATE_DIR, LocalStack, Plan, StackFailed
from tools.model_profile import PullFailed, pull_models
from tools.stack_parts import ROOT
from tools.state_lock import FolderTaken, holder_of
from tools.supervisor import last_lines

FOLDER = STATE_DIR / "demo"
SAMPLE = ROOT / "samples" / "dialogue.flac"
NEEDS_BYTES = 10**9  # the models take 0.3 GB, the rest is room for logs and the queue
POLL_S = 0.25


class DemoFailed(Exception):
    """The message says what to do."""


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        print(demo(Console()))
    except (DemoFailed, StackFailed, FolderTaken, PullFailed, ClientError, SpillwayError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted, everything is stopped", file=sys.stderr)
        return 130
    return 0


def demo(console: Console) -> str:
    """The closing line."""
    _prepare()
    pull_models({})
    console.print(f"starting redis, service, worker (on the CPU) and dispatcher; logs: {FOLDER}/logs", highlight=False, soft_wrap=True)
    with LocalStack(Plan(FOLDER), say=lambda line: console.print(line, highlight=False, soft_wrap=True)) as stack:
        console.print(f"sending {SAMPLE.relative_to(ROOT)} to {stack.url}/v1/jobs", highlight=False)
        started = time.monotonic()
        job, transcript = _transcribe(console, stack)
        seconds = time.monotonic() - started
        show_transcript(console, transcript)
    words = sum(len(segment["words"]) for segment in transcript["segments"])
    return f"demo: {job.duration_s:.1f} s of audio in {seconds:.1f} s, {len(transcript['speakers'])} speakers, {words} words"


def _prepare() -> None:
    if not SAMPLE.exists():
        raise DemoFailed(f"the sample is not there: {SAMPLE.relative_to(ROOT)} belongs to the checkout")
    if holder_of(FOLDER):
        raise DemoFailed("another demo runs in this checkout: let it end first")
    if (free := shutil.disk_usage(ROOT).free) < NEEDS_BYTES:
        raise DemoFailed(f"needs 1 GB for models and data, and {ROOT} has {free / 1e9:.1f} GB free: make room there")
    shutil.rmtree(FOLDER, ignore_errors=True)


def _transcribe(console: Console, stack: LocalStack) -> tuple[Job, dict[str, Any]]:
    with SpillwayClient(stack.url) as client:
        with live_progress(console) as progress:
            job = client.submit(SAMPLE, on_upload=progress.upload)
            while not job.has_ended:
                stack.check()
                time.sleep(POLL_S)
                job = client.job(job.id)
                progress.job(job)
        if job.state != "succeeded":
            why = f"{job.error.code}: {job.error.message}" if job.error else job.state
            raise DemoFailed(f"the job did not succeed: {why}\n{last_lines(stack.log_dir / 'worker.log')}")
        return job, json.loads(client.transcript(job.id))


if __name__ == "__main__":
    sys.exit(main())
