"""`make image-smoke`: builds both images, runs the doctor in them, brings compose up without a GPU, sends the sample, kills the worker
in the middle of the job, takes the stack down and up again, and leaves nothing behind. Needs Docker and Compose."""

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from client.api import SpillwayClient
from client.errors import SpillwayError
from client.models import Job
from tools.containers import CUDA_INDEX, PACKAGE_INDEX, ContainerFailed, Docker, Project, find_docker
from tools.stack_parts import ROOT, free_port

SERVICE, WORKER = "spillway-service:smoke", "spillway-worker:smoke"
BASE_IMAGE = "nvidia/cuda:12.4.0-devel-ubuntu22.04"
REDIS_IMAGE = "redis:7.4-bookworm"
SAMPLE = ROOT / "samples" / "dialogue.flac"
CONTEXT = ("client", "core", "dispatcher", "requirements", "samples", "service", "worker")  # what .dockerignore lets through
START_S = 600  # models included
JOB_S = 300
POLL_S = 0.2


class SmokeFailed(Exception):
    """What was expected and what came."""


@dataclass(frozen=True)
class Base:
    """What the images are built on here, and what that leaves unproven."""

    is_stand_in: bool
    has_cuda_index: bool

    @property
    def has_gpu_stack(self) -> bool:
        return self.has_cuda_index and not self.is_stand_in

    def arguments(self) -> dict[str, str]:
        index = CUDA_INDEX if self.has_cuda_index else PACKAGE_INDEX
        python = {"PYTHON_SOURCE": "distro"} if self.is_stand_in else {}
        return {"TORCH_INDEX": index, "GPU_STACK": "cu118" if self.has_gpu_stack else "none", **python}

    def unproven(self) -> Iterator[str]:
        if self.is_stand_in:
            yield f"{BASE_IMAGE} is a stand-in here: that the real one brings cuBLAS 12 and libnvrtc.so, and Python by uv"
        if not self.has_cuda_index:
            yield f"{CUDA_INDEX} was not reached: the cu118 build of the torch pair"
        yield "a GPU: `docker compose run --rm worker python -m worker.doctor --deep` on a GPU box"


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        smoke(_arguments())
    except (SmokeFailed, ContainerFailed, SpillwayError, OSError) as error:
        print(f"image-smoke: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("image-smoke: interrupted", file=sys.stderr)
        return 130
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make image-smoke", description=__doc__)
    parser.add_argument("--cold", action="store_true", help="build without the layer cache, for a build time that can be told to others")
    return parser.parse_args()


def smoke(given: argparse.Namespace) -> None:
    docker = find_docker()
    base = _base(docker)
    _say(f"built with {' '.join(f'{name}={value}' for name, value in base.arguments().items())}")
    _build(docker, base, cold=given.cold)
    _after_a_code_change(docker, base)
    _doctor_in_the_image(docker, base)
    _a_lame_image_is_not_built(docker)
    with _stack(docker) as stack:
        _run_through(stack)
    for line in base.unproven():
        _say(f"not proven here: {line}")
    sizes = ", ".join(f"{image.partition(':')[0]} {_gigabytes(docker.size_bytes(image))}" for image in (SERVICE, WORKER))
    _say(f"ok ({sizes})")


def _base(docker: Docker) -> Base:
    try:
        answer = httpx.head(CUDA_INDEX + "/", timeout=10, follow_redirects=True)
        reached = answer.is_success
    except httpx.HTTPError:
        reached = False
    return Base(docker.label(BASE_IMAGE, "stand-in") is not None, reached)


def _build(docker: Docker, base: Base, *, cold: bool) -> None:
    for target, tag in (("service", SERVICE), ("worker", WORKER)):
        seconds = _timed(lambda target=target, tag=tag: docker.build(ROOT, target, tag, base.arguments(), cold=cold))  # type: ignore[misc]
        _say(f"{target}: {'built from nothing' if cold else 'built'} in {seconds:.0f} s, {_gigabytes(docker.size_bytes(tag))}")


def _after_a_code_change(docker: Docker, base: Base) -> None:
    with tempfile.TemporaryDirectory(prefix="spillway-smoke-") as folder:
        context = Path(folder) / "context"
        _copy_context(context)
        with (context / "worker" / "work.py").open("a") as source:
            source.write(f"# {time.time()}\n")
        seconds = _timed(lambda: docker.build(context, "worker", "spillway-worker:smoke-changed", base.arguments()))
    docker.run("image", "rm", "spillway-worker:smoke-changed")
    _say(f"worker: rebuilt in {seconds:.0f} s after a change of one line")


def _copy_context(to: Path) -> None:
    to.mkdir()
    for name in ("Dockerfile", ".dockerignore"):
        shutil.copy2(ROOT / name, to)
    for name in CONTEXT:
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))


def _doctor_in_the_image(docker: Docker, base: Base) -> None:
    sys.stdout.write(docker.run("run", "--rm", WORKER, "python", "-m", "worker.doctor", "--build"))
    if base.has_gpu_stack:
        return
    try:
        docker.run("run", "--rm", "-e", "SPILLWAY_DEVICE=cuda", WORKER, "python", "-m", "worker.doctor")
    except ContainerFailed as refused:
        if "GPU_STACK=none" in str(refused):
            _say("a GPU start of an image without CUDA is refused")
            return
    raise SmokeFailed("an image built with GPU_STACK=none let a GPU start through: its doctor should refuse")


def _a_lame_image_is_not_built(docker: Docker) -> None:
    """With cu118 asked for and a library missing, the build ends at the doctor."""
    with tempfile.TemporaryDirectory(prefix="spillway-smoke-") as folder:
        (Path(folder) / "Dockerfile").write_text(
            f"FROM {WORKER} AS worker\nENV SPILLWAY_GPU_STACK=cu118\n"
            "RUN find /opt/venv -name 'libcudnn_cnn_infer.so.8' -delete && python -m worker.doctor --build\n"
        )
        try:
            docker.build(Path(folder), "worker", "spillway-worker:smoke-lame", {})
        except ContainerFailed as refused:
            if "libcudnn_cnn_infer.so.8" not in str(refused):
                raise
            _say("an image without libcudnn_cnn_infer.so.8 is not built: its doctor refuses")
            return
    raise SmokeFailed("an image without libcudnn_cnn_infer.so.8 was built: its doctor should have refused")


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
    seconds = _timed(lambda: stack.run("up", "--no-build", "-d"))
    _say(f"compose up returned after {seconds:.0f} s")
    with _client(stack) as client:
        waited = _timed(lambda: _until(lambda: any(worker.fit for worker in client.queue().workers), START_S, "a fit worker"))
        _say(f"first start: a worker is fit after {waited:.0f} s, its models included ({_volume_size(stack)})")
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
    _say(f"{job.duration_s:.1f} s of audio in {time.monotonic() - started:.1f} s, {len(content['speakers'])} speakers, {words} words")
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
    _say(f"worker killed in the middle of a job: succeeded {time.monotonic() - started:.0f} s later, losses 1, attempt 2")
    return ended


def _down_and_up(stack: Project, kept: Mapping[str, str]) -> None:
    stack.run("down")
    stack.run("up", "--no-build", "-d")
    with _client(stack) as client:
        for job_id, transcript in kept.items():
            if client.job(job_id).state != "succeeded" or client.transcript(job_id) != transcript:
                raise SmokeFailed(f"job {job_id} is not what it was before compose went down and up")
    _say(f"down and up: {len(kept)} jobs and their transcripts are what they were")


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
    return _gigabytes(int(said.split()[0]))


def _show_logs(stack: Project) -> None:
    print(stack.run("logs", "--no-color", "--tail=30"), file=sys.stderr)


def _timed(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def _say(line: str) -> None:
    print(f"image-smoke: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
