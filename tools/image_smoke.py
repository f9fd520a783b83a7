"""`make image-smoke`: builds both images, runs the doctor in them, brings compose up without a GPU, sends the sample, kills the worker
in the middle of the job, takes the stack down and up again, and leaves nothing behind. Needs Docker and Compose."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from client.errors import SpillwayError
from tools.containers import CUDA_INDEX, PACKAGE_INDEX, ContainerFailed, Docker, find_docker
from tools.stack_parts import ROOT
from tools.stack_smoke import SERVICE, WORKER, SmokeFailed, gigabytes, run_stack, say, timed

BASE_IMAGE = "nvidia/cuda:12.4.0-devel-ubuntu22.04"  # the variable of this name takes another, as in compose
CONTEXT = (  # what .dockerignore lets through
    "Dockerfile", "client", "core", "dispatcher", "modal_deploy.py", "requirements", "samples", "service", "worker",
)  # fmt: skip


@dataclass(frozen=True)
class Base:
    """What the images are built on here, and what that leaves unproven."""

    image: str
    is_stand_in: bool
    has_cuda_index: bool

    @property
    def has_gpu_stack(self) -> bool:
        return self.has_cuda_index and not self.is_stand_in

    def arguments(self) -> dict[str, str]:
        index = CUDA_INDEX if self.has_cuda_index else PACKAGE_INDEX
        python = {"PYTHON_SOURCE": "distro"} if self.is_stand_in else {}
        return {"BASE_IMAGE": self.image, "TORCH_INDEX": index, "GPU_STACK": "cu118" if self.has_gpu_stack else "none", **python}

    def unproven(self) -> Iterator[str]:
        if self.is_stand_in:
            yield f"{self.image} is a stand-in here: that the real one brings cuBLAS 12 and libnvrtc.so, and Python by uv"
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
    docker, received = find_docker(), _received_bytes()
    base = _base(docker)
    say(f"built with {' '.join(f'{name}={value}' for name, value in base.arguments().items())}")
    _build(docker, base, cold=given.cold)
    _after_a_code_change(docker, base)
    _doctor_in_the_image(docker, base)
    _a_lame_image_is_not_built(docker)
    run_stack(docker)
    if given.cold:
        say(f"this machine received {gigabytes(_received_bytes() - received)} meanwhile: packages and models, the base images not")
    for line in base.unproven():
        say(f"not proven here: {line}")
    sizes = ", ".join(f"{image.partition(':')[0]} {gigabytes(docker.size_bytes(image))}" for image in (SERVICE, WORKER))
    say(f"ok ({sizes})")


def _base(docker: Docker) -> Base:
    try:
        answer = httpx.head(CUDA_INDEX + "/", timeout=10, follow_redirects=True)
        reached = answer.is_success
    except httpx.HTTPError:
        reached = False
    image = os.environ.get("BASE_IMAGE") or BASE_IMAGE
    return Base(image, docker.label(image, "stand-in") is not None, reached)


def _build(docker: Docker, base: Base, *, cold: bool) -> None:
    for target, tag in (("service", SERVICE), ("worker", WORKER)):
        seconds = timed(lambda target=target, tag=tag: docker.build(ROOT, target, tag, base.arguments(), cold=cold))  # type: ignore[misc]
        say(f"{target}: {'built from nothing' if cold else 'built'} in {seconds:.0f} s, {gigabytes(docker.size_bytes(tag))}")


def _after_a_code_change(docker: Docker, base: Base) -> None:
    with tempfile.TemporaryDirectory(prefix="spillway-smoke-") as folder:
        context = Path(folder) / "context"
        _copy_context(context)
        with (context / "worker" / "work.py").open("a") as source:
            source.write(f"# {time.time()}\n")
        seconds = timed(lambda: docker.build(context, "worker", "spillway-worker:smoke-changed", base.arguments()))
    docker.run("image", "rm", "spillway-worker:smoke-changed")
    say(f"worker: rebuilt in {seconds:.0f} s after a change of one line")


def _copy_context(to: Path) -> None:
    to.mkdir()
    for source in (ROOT / name for name in (".dockerignore", *CONTEXT)):
        if source.is_dir():
            shutil.copytree(source, to / source.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, to)


def _doctor_in_the_image(docker: Docker, base: Base) -> None:
    sys.stdout.write(docker.run("run", "--rm", WORKER, "python", "-m", "worker.doctor", "--build"))
    if base.has_gpu_stack:
        return
    try:
        docker.run("run", "--rm", "-e", "SPILLWAY_DEVICE=cuda", WORKER, "python", "-m", "worker.doctor")
    except ContainerFailed as refused:
        if "GPU_STACK=none" in str(refused):
            say("a GPU start of an image without CUDA is refused")
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
            say("an image without libcudnn_cnn_infer.so.8 is not built: its doctor refuses")
            return
    raise SmokeFailed("an image without libcudnn_cnn_infer.so.8 was built: its doctor should have refused")


def _received_bytes() -> int:
    """By the network cards of this machine, whoever asked; the engine's own bridges are not counted twice."""
    cards = (card for card in Path("/sys/class/net").iterdir() if (card / "device").exists())
    return sum(int((card / "statistics" / "rx_bytes").read_text()) for card in cards)


if __name__ == "__main__":
    sys.exit(main())
