"""The `spillway` command: 0 when it did what was asked, 1 when it could not, 2 when it was asked wrongly."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from client.api import DEFAULT_URL, SpillwayClient
from client.arguments import FORMATS, OPTIONS, parser
from client.display import LiveProgress, live_progress, show_deliveries, show_job, show_jobs, show_queue, show_transcript
from client.errors import ServiceBusy, ServiceRefused, SpillwayError
from client.models import Job

URL_VARIABLE, KEY_VARIABLE = "SPILLWAY_URL", "SPILLWAY_API_KEY"
out, err = Console(), Console(stderr=True)


def main(arguments: list[str] | None = None) -> int:
    asked = parser().parse_args(arguments)
    url = asked.url or os.environ.get(URL_VARIABLE) or DEFAULT_URL
    try:
        with SpillwayClient(url, api_key=os.environ.get(KEY_VARIABLE)) as client:
            return COMMANDS[asked.command](client, asked)
    except ServiceRefused as refused:
        return _complain(refused.message + (f" (`spillway` sends the key in {KEY_VARIABLE})" if refused.status in (401, 403) else ""))
    except SpillwayError as error:
        return _complain(error.message)
    except BrokenPipeError:  # whoever read us, `head` say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains of it once more at its end
        return 1
    except OSError as error:
        return _complain(f"{error.filename or ''}: {error.strerror or error}")
    except KeyboardInterrupt:
        return _complain("interrupted")


def transcribe(client: SpillwayClient, asked: Namespace) -> int:
    job: Job | None = None
    try:
        with live_progress(err) as progress:
            job = _submit(client, asked, progress)
            job = client.wait(job.id, progress.job)
    except KeyboardInterrupt:
        return _cancelled(client, job)
    if job.state != "succeeded":
        return _complain(f"job {job.id}: {job.error.message if job.error else job.state}")
    file = asked.output if isinstance(asked.output, Path) else None
    _hand_over(client, job.id, asked.format, file)
    if asked.format or file or not out.is_terminal:  # on a terminal they stand below the transcript
        for warning in job.warnings:
            err.print(f"warning: {warning.message}", highlight=False, markup=False, soft_wrap=True)
    return 0


def submit(client: SpillwayClient, asked: Namespace) -> int:
    try:
        with live_progress(err) as progress:
            job = _submit(client, asked, progress)
    except KeyboardInterrupt:
        return _cancelled(client, None)
    _write(job.id + "\n")
    return 0


def status(client: SpillwayClient, asked: Namespace) -> int:
    show_job(out, client.job(asked.id))
    return 0


def jobs(client: SpillwayClient, asked: Namespace) -> int:
    page = client.jobs(limit=asked.limit, cursor=asked.cursor, state=asked.state)
    show_jobs(out, page.jobs)
    if page.next:
        err.print(f"more: --cursor {page.next}", highlight=False)
    return 0


def get(client: SpillwayClient, asked: Namespace) -> int:
    _hand_over(client, asked.id, asked.format, asked.output)
    return 0


def deliveries(client: SpillwayClient, asked: Namespace) -> int:
    show_deliveries(out, client.deliveries(asked.id))
    return 0


def cancel(client: SpillwayClient, asked: Namespace) -> int:
    job = client.cancel(asked.id)
    _write("cancelling\n" if job.state == "running" else f"{job.state}\n")
    return 0


def delete(client: SpillwayClient, asked: Namespace) -> int:
    client.delete(asked.id)
    return 0


def queue(client: SpillwayClient, asked: Namespace) -> int:  # noqa: ARG001 - all commands are called alike
    show_queue(out, client.queue())
    return 0


COMMANDS: dict[str, Callable[[SpillwayClient, Namespace], int]] = {
    "transcribe": transcribe, "submit": submit, "status": status, "jobs": jobs,
    "get": get, "deliveries": deliveries, "cancel": cancel, "delete": delete, "queue": queue,
}  # fmt: skip


def _submit(client: SpillwayClient, asked: Namespace, progress: LiveProgress) -> Job:
    if isinstance(asked.recording, Path):
        return client.submit(asked.recording, on_upload=progress.upload, on_busy=_say_busy, **_options(asked))
    return client.submit(source=asked.recording, on_busy=_say_busy, **_options(asked) | _metadata(asked))


def _metadata(asked: Namespace) -> dict[str, Any]:
    """As JSON, which is what goes with a source; text that is none is the service's to refuse."""
    try:
        return {"metadata": json.loads(asked.metadata)} if asked.metadata is not None else {}
    except ValueError:
        return {}


def _options(asked: Namespace) -> dict[str, Any]:
    """A prefix in a bucket is the service's to write, a file is ours."""
    given = {name: getattr(asked, name) for name in OPTIONS if getattr(asked, name) is not None}
    return given | ({"output": asked.output} if isinstance(asked.output, str) else {})


def _hand_over(client: SpillwayClient, job_id: str, form: str | None, output: Path | None) -> None:
    """To a file, coloured to a terminal, or plain to a pipe."""
    if output is not None:
        output.write_text(client.transcript(job_id, form or _format_of(output)), encoding="utf-8")
    elif form is None and out.is_terminal:
        show_transcript(out, json.loads(client.transcript(job_id)))
    else:
        _write(client.transcript(job_id, form or "txt"))


def _format_of(output: Path) -> str:
    suffix = output.suffix.removeprefix(".").lower()
    return suffix if suffix in FORMATS else "txt"


def _cancelled(client: SpillwayClient, job: Job | None) -> int:
    if job is None:
        return _complain("interrupted while sending: if the service had the whole recording, its job is among `spillway jobs`")
    client.cancel(job.id)
    return _complain(f"interrupted: job {job.id} is being cancelled")


def _say_busy(busy: ServiceBusy, pause_s: float) -> None:
    _complain(f"{busy.message} (next try in {pause_s:.0f} s)")


def _complain(message: str) -> int:
    err.print(f"spillway: {message}", highlight=False, markup=False, soft_wrap=True)
    return 1


def _write(text: str) -> None:
    sys.stdout.write(text)
