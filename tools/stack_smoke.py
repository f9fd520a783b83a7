"""The stack in containers, run through once: compose up without a GPU, the sample, a worker killed in mid-job, down and up again."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import httpx

from client.api import SpillwayClient
from client.models import Job
from tools.containers import Docker, Project
from tools.stack_parts import ROOT, free_port

SERVICE, WORKER = "spillway-service:smoke", "spillway-worker:smoke"
REDIS_IMAGE = "redis:7.4-bookworm"
SAMPLE = ROOT / "samples" / "dialogue.flac"
START_S = 600  # models included
JOB_S = 300
POLL_S = 0.2


class SmokeFailed(Exception):
    """What was expected and what came."""


def run_stack(docker: Docker) -> None:
    """Raises `SmokeFailed`; nothing is left running."""
    with _stack(docker) as stack:
        _run_through(stack)


@contextmanager
def _stack(docker: Docker) -> Iterator[Project]:
    environment = {
        "SPILLWAY_SERVICE_IMAGE": SERVICE,
        "SPILLWAY_WORKER_IMAGE": WORKER,
        "SPILLWAY_PUBLISH_PORT": str(free_port()),
        "REDIS_IMAGE": REDIS_IMAGE,
        "SPILLWAY_ALIGN_LANGUAGES": ",",  # none: wav2vec2 comes from a hub that may be out of reach
        "SPILLWAY_PULL_ON_FIRST_USE": "false",
    }
    stack = Project(docker, "spillway-smoke", (ROOT / "docker-compose.yml", ROOT / "docker-compose.cpu.yml"), environment)
    stack.run("down", "--volumes", "--timeout", "5")
    try:
        yield stack
    except BaseException:
        _show_logs(stack)
        raise
    finally:
        stack.run("down", "--volumes", "--timeout", "5")


def _run_through(stack: Project) -> None:
    seconds = timed(lambda: stack.run("up", "--no-build", "-d"))
    say(f"compose up returned after {seconds:.0f} s")
    with _client(stack) as client:
        waited = timed(lambda: _until(lambda: any(worker.fit for worker in client.queue().workers), START_S, "a fit worker"))
        say(f"first start: a worker is fit after {waited:.0f} s, its models included ({_volume_size(stack)})")
        sys.stdout.write(stack.run("exec", "-T", "worker", "python", "-m", "worker.doctor"))
        job, transcript = _first_job(client)
        killed = _killed_in_the_middle(stack, client)
        kept = {job.id: transcript, killed.id: client.transcript(killed.id)}
    _down_and_up(stack, kept)


def _client(stack: Project) -> SpillwayClient:
    url = f"http://127.0.0.1:{stack.environment['SPILLWAY_PUBLISH_PORT']}"
    _until(lambda: _is_ready(url), START_S, "the service to be ready")
    return SpillwayClient(url, api_key=stack.run("exec", "-T", "service", "cat", "/run/spillway-keys/api_key").strip())


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _first_job(client: SpillwayClient) -> tuple[Job, str]:
    started = time.monotonic()
    job = _ended(client, client.submit(SAMPLE))
    transcript = client.transcript(job.id)
    content = json.loads(transcript)
    words = sum(len(segment["words"]) for segment in content["segments"])
    if words < 90 or len(content["speakers"]) != 2:
        raise SmokeFailed(f"the sample gave {words} words and {len(content['speakers'])} speakers: expected more than 90 and 2")
    say(f"{job.duration_s:.1f} s of audio in {time.monotonic() - started:.1f} s, {len(content['speakers'])} speakers, {words} words")
    return job, transcript


def _killed_in_the_middle(stack: Project, client: SpillwayClient) -> Job:
    job = client.submit(SAMPLE)
    _until(lambda: client.job(job.id).state == "running" and client.job(job.id).progress > 0, JOB_S, "the job to run")
    stack.docker.run("kill", stack.container("worker"))
    if (now := client.job(job.id)).has_ended:
        raise SmokeFailed(f"the worker was killed too late: the job was {now.state}")
    started = time.monotonic()
    stack.run("up", "--no-build", "-d", "worker")
    ended = _ended(client, job)
    if (ended.losses, ended.attempt) != (1, 2):
        raise SmokeFailed(f"after a kill in mid-job: losses {ended.losses}, attempt {ended.attempt}; expected 1 and 2")
    say(f"worker killed in the middle of a job: succeeded {time.monotonic() - started:.0f} s later, losses 1, attempt 2")
    return ended


def _down_and_up(stack: Project, kept: Mapping[str, str]) -> None:
    stack.run("down")
    stack.run("up", "--no-build", "-d")
    with _client(stack) as client:
        for job_id, transcript in kept.items():
            if client.job(job_id).state != "succeeded" or client.transcript(job_id) != transcript:
                raise SmokeFailed(f"job {job_id} is not what it was before compose went down and up")
    say(f"down and up: {len(kept)} jobs and their transcripts are what they were")


def _ended(client: SpillwayClient, job: Job) -> Job:
    _until(lambda: client.job(job.id).has_ended, JOB_S, "the job to end")
    ended = client.job(job.id)
    if ended.state != "succeeded":
        raise SmokeFailed(f"the job is {ended.state}: {ended.error}")
    return ended


def _until(holds: Callable[[], bool], most_s: float, what: str) -> None:
    deadline = time.monotonic() + most_s
    while not holds():
        if time.monotonic() > deadline:
            raise SmokeFailed(f"waited {most_s:.0f} s in vain for {what}")
        time.sleep(POLL_S)


def _volume_size(stack: Project) -> str:
    said = stack.run("exec", "-T", "worker", "du", "-sb", "/var/lib/spillway/models")
    return gigabytes(int(said.split()[0]))


def _show_logs(stack: Project) -> None:
    print(stack.run("logs", "--no-color", "--tail=30"), file=sys.stderr)


def timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def say(line: str) -> None:
    print(f"image-smoke: {line}", flush=True)
