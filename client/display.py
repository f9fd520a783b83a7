"""How progress and transcripts look in a terminal."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from client.models import Bursts, Delivery, Job, Queue

SPEAKER_STYLES = ("cyan", "magenta", "green", "yellow", "blue", "red")
STAGES = {
    "fetching": "fetching the recording",
    "decode": "decoding",
    "vad": "finding speech",
    "asr": "recognizing speech",
    "diarization": "telling speakers apart",
    "alignment": "timing words",
    "assignment": "giving words to speakers",
    "commit": "storing the transcript",
}


@dataclass(frozen=True)
class ProgressOf:
    text: str
    fraction: float  # 0 to 1


def progress_of(job: Job) -> ProgressOf:
    """What a job is at, in words and as a fraction."""
    if job.state == "queued":
        if job.stage:
            return ProgressOf(STAGES.get(job.stage, job.stage), 0.0)
        return ProgressOf(_waiting(job), 0.0)
    if job.state == "running" and job.cancel_requested:
        return ProgressOf("being cancelled", job.progress)
    if job.state == "running":
        return ProgressOf(STAGES.get(job.stage or "", job.stage or "starting"), job.progress)
    return ProgressOf(job.state, 1.0 if job.state == "succeeded" else job.progress)


def _waiting(job: Job) -> str:
    if job.waiting_for == "models":
        at = job.downloading
        return "waiting for the models" + (f": {at.done_bytes / 1e9:.1f} of {at.total_bytes / 1e9:.1f} GB" if at else "")
    if job.waiting_for == "worker":
        return "waiting for a fit worker (`spillway queue` says why)"
    return f"waiting, {job.queue_position} before it" if job.queue_position else "waiting"


class LiveProgress:
    """One line that first shows the upload, then the job; silent where the console is no terminal."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._line: TaskID = bar.add_task("uploading", total=1.0)
        self._is_uploaded = False

    def upload(self, sent: int, total: int) -> None:
        self._bar.update(self._line, completed=sent / max(total, 1))

    def job(self, job: Job) -> None:
        if not self._is_uploaded:
            self._bar.reset(self._line, total=1.0)  # a full bar counts as finished, and its clock stands still
            self._is_uploaded = True
        at = progress_of(job)
        self._bar.update(self._line, description=at.text, completed=at.fraction)


@contextmanager
def live_progress(console: Console) -> Iterator[LiveProgress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        yield LiveProgress(bar)


def show_transcript(console: Console, transcript: Mapping[str, Any]) -> None:
    """One paragraph per speaker's turn, each speaker in a colour of its own; `transcript` is the canonical JSON."""
    labels = [speaker["label"] for speaker in transcript["speakers"]]
    for speaker, run in groupby(transcript["segments"], key=lambda segment: segment["speaker"]):
        segments = list(run)
        console.print(_paragraph(speaker, segments, _style(speaker, labels)))
    for warning in transcript["warnings"]:
        console.print(Text(f"warning: {warning['message']}", style="yellow"))


def show_job(console: Console, job: Job) -> None:
    table = Table.grid(padding=(0, 2))
    at = progress_of(job)
    rows = {
        "id": job.id, "file": job.filename, "from": job.source, "state": job.state, "at": f"{at.text} ({at.fraction:.0%})",
        "audio": _length(job), "starts about": job.estimated_start, "created": job.created_at,
        "started": job.started_at, "finished": job.finished_at, "on": job.runner, "runners lost": job.losses or None,
        "error": job.error and f"{job.error.code}: {job.error.message}",
    }  # fmt: skip
    for name, value in rows.items():
        if value is not None:
            table.add_row(Text(name, style="bold"), Text(str(value)))
    for warning in job.warnings:
        table.add_row(Text("warning", style="bold"), Text(warning.message))
    console.print(table)


def show_jobs(console: Console, jobs: tuple[Job, ...]) -> None:
    """A table for a terminal; for a pipe a line per job, its fields parted by tabs."""
    rows = [(job.id, job.state, f"{progress_of(job).fraction:.0%}", _length(job), job.created_at, job.filename) for job in jobs]
    if not console.is_terminal:
        console.file.writelines("\t".join(row) + "\n" for row in rows)
        return
    table = Table(Column("id", no_wrap=True), "state", "at", "audio", "created", "file", box=None)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def show_deliveries(console: Console, deliveries: tuple[Delivery, ...]) -> None:
    """A table for a terminal; for a pipe a line per delivery, its fields parted by tabs."""
    rows = [(each.kind, each.state, str(len(each.attempts)), each.next_try or "", each.url, _last_error(each)) for each in deliveries]
    if not console.is_terminal:
        console.file.writelines("\t".join(row) + "\n" for row in rows)
        return
    table = Table("what", "state", "tries", "next try", "to", "last error", box=None)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table if rows else "this job owes nothing to anybody")


def show_queue(console: Console, queue: Queue) -> None:
    wait = "unknown" if queue.estimated_wait_s is None else clock(queue.estimated_wait_s)
    speed = "not measured yet" if queue.real_time_factor is None else f"{queue.real_time_factor:.1f} x real time"
    waiting = f"waiting: {queue.queued_jobs} ({clock(queue.queued_audio_s)} of audio)"
    fetching = f", being fetched: {queue.fetching_jobs}" if queue.fetching_jobs else ""
    console.print(f"{waiting}{fetching}, running: {queue.running_jobs}", highlight=False)
    console.print(f"speed: {speed}; a job sent now waits: {wait}", highlight=False)
    table = Table("worker", "fit", "device", "model", "jobs", box=None)
    for worker in queue.workers:
        fitness = "yes" if worker.fit else f"no: {worker.reason}"
        table.add_row(*(Text(cell) for cell in (worker.slot, fitness, worker.device, worker.model, str(worker.jobs_in_flight))))
    console.print(table if queue.workers else "no worker has been heard of lately")
    if queue.burst.enabled or queue.burst.calls:
        console.print(_bursts(queue.burst), highlight=False)


def _bursts(burst: Bursts) -> str:
    spent = f"${burst.today_usd:.2f} of ${burst.day_cap_usd:.2f} today, ${burst.month_usd:.2f} of ${burst.month_cap_usd:.2f} this month"
    paused = f"; paused: {burst.reason}" if burst.paused else ""
    return f"bursts to Modal: {burst.calls} under way with {burst.jobs} jobs; {spent}{paused}"


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _last_error(delivery: Delivery) -> str:
    last = delivery.attempts[-1] if delivery.attempts else None
    said = (last.status and str(last.status), last.error) if last else ()
    return ": ".join(part for part in said if part)


def _length(job: Job) -> str:
    return "unknown" if job.duration_s is None else clock(job.duration_s)


def _paragraph(speaker: str | None, segments: list[Mapping[str, Any]], style: str) -> Text:
    opening = Text(f"[{clock(segments[0]['start'])}] ", style="dim")
    if speaker:
        opening.append(f"{speaker}: ", style=f"bold not dim {style}")
    return opening.append(" ".join(segment["text"].strip() for segment in segments), style="not dim")


def _style(speaker: str | None, labels: list[str]) -> str:
    return SPEAKER_STYLES[labels.index(speaker) % len(SPEAKER_STYLES)] if speaker in labels else "default"
