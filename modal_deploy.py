"""Spillway's worker on Modal: `modal deploy modal_deploy.py`, or without Python on the host

    docker compose run --rm dispatcher modal deploy modal_deploy.py

The image that runs on the box, a class that loads its engine once and takes bundles of jobs, and a function that fills a Volume with
the models. docs/burst.md goes through a first deployment. Modal imports this file twice: here, to know what to build, and in the
container, which must come to the same conclusions; so the settings that decide anything travel along.
"""

import re
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import modal
import modal.experimental

from core.burst import CONTAINER_CORES, CONTAINER_GIB
from core.process import begin
from core.settings import Settings, variable

BEGUN = monotonic()  # in a container its cold start is counted from here
HERE = Path(__file__).parent
CODE = ("core", "worker")
MODELS = "/var/lib/spillway/models"  # where the image looks for them
FILL_TIMEOUT_S = 3600
TOKEN = f"{variable('modal_token_id')} and {variable('modal_token_secret')} in .env, or one that `modal token new` made"

# What the account's Secrets hold is read where a wrong one is an answer: a container that ends at its import is started again and again.
settings = begin("modal", without=("gcs_credentials", "hf_token"))
if settings.asr_model.startswith(("/", "./", "../", "~")):
    sys.exit(f"SPILLWAY_ASR_MODEL is the folder {settings.asr_model}, which is not on Modal: burst with a model that has a name")
if settings.file_store and not settings.modal_gcs_secret:
    sys.exit(
        "SPILLWAY_FILE_STORE is a bucket, which a container on Modal must reach too: make a Secret there,\n"
        '  modal secret create spillway-gcs SPILLWAY_GCS_CREDENTIALS="$(cat key.json)"\nand set SPILLWAY_MODAL_GCS_SECRET=spillway-gcs'
    )

# What the box and the container must agree on. Models come by `fill` alone: a GPU is too dear to wait for a download.
environment: dict[str, str | None] = {
    **settings.as_environment(
        (*(name for name in type(settings).model_fields if name.startswith("modal_") and "token" not in name),
         "asr_model", "diarization_model", "align_languages", "compute_type", "asr_batch_size", "segmentation_batch_size", "beam_size",
         "vad_onset", "vad_offset", "max_jobs_in_flight", "file_store", "log_level", "log_format")
    ),
    "SPILLWAY_PULL_AT_START": "false",
    "SPILLWAY_PULL_ON_FIRST_USE": "false",
    "CUDA_CACHE_PATH": f"{MODELS}/.cuda-cache",  # what one cold start compiled for its GPU, the next one finds
}  # fmt: skip


def secret(name: str | None, *keys: str) -> modal.Secret | None:
    """A Secret of the account by its name; if Modal gives none, it ends the deployment with the command that makes it."""
    if name is None:
        return None
    found = modal.Secret.from_name(name, environment_name=settings.modal_environment, required_keys=list(keys))
    if modal.is_local():
        try:
            found.hydrate()
        except modal.exception.Error as error:
            wanted = keys or ("REGISTRY_USERNAME", "REGISTRY_PASSWORD")  # as most registries take them
            command = " ".join(["modal secret create", name, *(f"{key}=…" for key in wanted)])
            sys.exit(f"Modal gives no Secret {' with '.join([name, *keys])} ({error}): if it is missing, make it,\n  {command}")
    return found


def dockerfile() -> Path:
    """Our Dockerfile without the stages that hold code: Modal knows no target, and takes a whole Dockerfile for one layer, so that with
    them a changed line of code would install the stack anew."""
    top, *stages = re.split(r"^(?=FROM )", (HERE / "Dockerfile").read_text(), flags=re.MULTILINE)
    kept = [stage for stage in stages if re.match(r"FROM \S+ AS (installer|stack)\n", stage)]
    path = Path(tempfile.mkdtemp(prefix="spillway-")) / "Dockerfile"
    path.write_text(re.sub(r"^(#.*)?\n", "", "".join([top, *kept]), flags=re.MULTILINE))  # another comment is no other image
    return path


def built_image() -> modal.Image:
    """The stack as Modal builds it, and over it our code, which containers are handed when they start."""
    path = dockerfile() if modal.is_local() else Path("Dockerfile")  # the container is made of it already
    image = modal.Image.from_dockerfile(path, context_dir=HERE, build_args={"GPU_STACK": "cu118"})
    for name in CODE:
        image = image.add_local_dir(HERE / name, f"/app/{name}", ignore=["**/__pycache__", "**/*.pyc"])
    return image


def pushed_image(digest: str) -> modal.Image:
    """The box's own image, code and all."""
    return modal.Image.from_registry(digest, secret=secret(settings.modal_registry_secret)).entrypoint([])


volume = modal.Volume.from_name(settings.modal_volume, create_if_missing=True, environment_name=settings.modal_environment)
if modal.is_local():
    try:
        volume.hydrate()
    except modal.exception.Error as error:  # a token that is missing or wrong, mostly
        sys.exit(f"Modal gives no Volume {settings.modal_volume} ({error}): see the token, {TOKEN}, and SPILLWAY_MODAL_ENVIRONMENT")
image = pushed_image(settings.modal_image) if settings.modal_image else built_image()
bucket_key = secret(settings.modal_gcs_secret, "SPILLWAY_GCS_CREDENTIALS")
hub_token = secret(settings.modal_hf_secret, "SPILLWAY_HF_TOKEN")
app = modal.App(settings.modal_app, image=image)


def take_no_more() -> None:
    """Ends this container after the call that it has. It asks Modal for that: should it fail, the reply goes home all the same."""
    with suppress(Exception):
        modal.experimental.stop_fetching_inputs()


with image.imports():  # type: ignore[no-untyped-call]
    from worker.container import BurstWorker, fill_models


@app.cls(
    gpu=list(settings.modal_gpus),
    cpu=CONTAINER_CORES,
    memory=CONTAINER_GIB * 1024,
    volumes={MODELS: volume},
    secrets=[bucket_key] if bucket_key else [],
    env=environment,
    max_containers=settings.modal_max_containers,
    scaledown_window=settings.modal_scaledown_s,
    timeout=settings.modal_timeout_s,
    startup_timeout=settings.modal_startup_timeout_s,
    retries=0,  # the box's queue tries again, and counts
)
class Transcriber:
    @modal.enter()
    def load(self) -> None:
        self.worker = BurstWorker(Settings.from_environment, BEGUN)
        if self.worker.is_host_bad:  # some of Modal's L4 hosts; the call goes to another
            take_no_more()

    @modal.method()
    def run(self, bundle: dict[str, Any], recordings: dict[str, bytes]) -> dict[str, Any]:
        """`core.burst`'s Bundle in, its Reply out, as plain values. A list of receipts and no stream: Modal spawns no generators."""
        reply = self.worker.run(bundle, recordings, modal.current_function_call_id() or "")
        if not self.worker.is_fit:
            take_no_more()
        return reply


@app.function(volumes={MODELS: volume}, secrets=[hub_token] if hub_token else [], env=environment, timeout=FILL_TIMEOUT_S, retries=0)
def fill() -> dict[str, Any]:
    """Brings what is missing of the models into the Volume: `said`, line by line, and an `error` or None."""
    said = fill_models(Settings.from_environment)
    volume.commit()
    return said
