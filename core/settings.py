"""Every setting, read once from `SPILLWAY_*` variables into one frozen object that each process passes down."""

import os
import re
from base64 import b64decode
from collections.abc import Collection, Iterable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from core.errors import SettingsError
from core.gcs_key import credentials_of
from core.gs_address import ADDRESS

PREFIX = "SPILLWAY_"
FILE_SUFFIX = "_FILE"  # SPILLWAY_X_FILE names the file that holds x: how containers are handed secrets
HOST_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", re.ASCII)
MOST_PER_MINUTE = 60_000  # their distance is kept in milliseconds
MOST_PER_KEY = 1_000_000
MAKE_WEBHOOK_SECRET = 'echo "whsec_$(head -c 32 /dev/urandom | base64)"'
MODAL_NAME = r"^[A-Za-z0-9._-]{1,63}$"
MODAL_TOKEN = r"^[!-~]+$"  # ASCII without blanks: it travels in a header
# Newer ones have no kernels in torch 2.0.0; their names are Modal's, which takes any and fails at the first call.
MODAL_GPUS = ("T4", "L4", "A10", "A10G", "L40S", "A100", "A100-40GB", "A100-80GB", "H100", "H100!", "H200")
NOT_OURS = (
    "SPILLWAY_URL", "SPILLWAY_API_KEY",  # the client's: where the service is, and its key
    "SPILLWAY_PUBLISH_ADDRESS", "SPILLWAY_PUBLISH_PORT", "SPILLWAY_SERVICE_IMAGE", "SPILLWAY_WORKER_IMAGE",  # compose's own
)  # fmt: skip


class Settings(BaseModel):
    """A field's name in upper case behind `SPILLWAY_` is its variable; lists are comma-separated."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)

    # Where things are
    redis_url: str = Field("redis://127.0.0.1:6379/0", repr=False, description="Redis: job records, the queue, wake-ups.")
    file_store: str | None = Field(
        None, description="`gs://bucket/prefix` keeps files in Google Cloud Storage; unset, in the folder below."
    )
    file_store_dir: Path = Field(
        Path("/var/lib/spillway/files"),
        description="Uploads, stage products and transcripts; with a bucket, room for uploads and copies under way.",
    )
    gcs_credentials: str | None = Field(
        None, repr=False, description="A service account's key (JSON) for `gs://`; unset, application default credentials."
    )
    model_dir: Path = Field(Path("/var/lib/spillway/models"), description="Model files, filled by `python -m worker.model_files pull`.")
    ffmpeg: str = Field("ffmpeg", description="The ffmpeg program: a name on PATH or a path.")

    # The service
    host: str = Field("127.0.0.1", description="Address the service listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port the service listens on.")
    access: Literal["keys", "open"] = Field(
        "keys", description="`keys`: every call needs an API key; `open`: none does, and only this machine may call."
    )
    api_key_secret: str | None = Field(
        None, repr=False, min_length=32, description="What API keys are hashed with; `python -m service.init` makes one."
    )
    first_api_key: str | None = Field(
        None, repr=False, description="An admin key that is good from the start; `python -m service.init` makes one."
    )
    service_threads: int = Field(64, ge=4, le=1024, description="Threads of the service: requests served at once.")
    event_streams_max: int = Field(
        48, ge=1, le=1000, description="Event streams open at once; kept below the threads so that probes answer."
    )
    max_upload_bytes: int = Field(4 * 1024**3, ge=1, description="Largest upload, in bytes.")
    max_duration_s: float = Field(12 * 3600, gt=0, description="Longest recording, in seconds.")
    max_queued_jobs: int = Field(10_000, ge=1, description="Jobs that may wait; more are refused with 503.")
    max_jobs_per_key: int = Field(
        1000,
        ge=0,
        le=MOST_PER_KEY,
        description="Jobs of one API key that may wait and run; more are refused with 429. 0: no limit. Not for admin keys.",
    )
    requests_per_minute: int = Field(
        600, ge=0, le=MOST_PER_MINUTE, description="Requests of one API key in a minute; more are refused with 429. 0: no limit."
    )
    wrong_keys_per_minute: int = Field(
        60,
        ge=0,
        le=MOST_PER_MINUTE,
        description="Wrong API keys from one address, behind a proxy the proxy's, in a minute; then 429. 0: no limit.",
    )
    idempotency_ttl_s: int = Field(3 * 86400, ge=60, description="How long an Idempotency-Key is remembered, in seconds.")

    # How long what belongs to a job is kept
    keep_inputs_s: float | None = Field(
        86400, ge=0, description="How long an ended job's recording is kept, in seconds; 0: deleted at its end; `forever`."
    )
    keep_products_s: float | None = Field(
        6 * 3600,
        ge=0,
        description="How long what an ended job's stages have left is kept, in seconds; 0: deleted at its end; `forever`.",
    )
    keep_results_s: float | None = Field(
        30 * 86400,
        ge=0,
        description="How long an ended job and its transcript are kept, in seconds, and until they are delivered; 0: no longer; `forever`.",
    )

    # Sources
    fetches_max: int = Field(
        4, ge=1, le=64, description="Sources that the dispatcher fetches at once, at most half of them of one API key."
    )
    fetch_allow: tuple[str, ...] = Field(
        (), description="Host names and networks, as 10.1.0.0/16, that sources may be fetched from although they are private. Dangerous."
    )

    # Webhooks
    webhook_secret: tuple[str, ...] = Field(
        (),
        repr=False,
        description="What webhooks are signed with, `whsec_` and base64 of 24 to 64 bytes; two while it changes; none: no `callback_url`.",
    )
    deliveries_max: int = Field(8, ge=1, le=64, description="Webhooks and outputs that the dispatcher delivers at once.")
    callback_allow: tuple[str, ...] = Field(
        (), description="Host names and networks, as 10.1.0.0/16, that webhooks may be sent to although they are private. Dangerous."
    )

    # Models
    asr_model: str = Field("large-v2", description="Whisper model: a known name, `owner/repository[@revision]`, or a folder.")
    diarization_model: str = Field("auto", description="`auto`, `pyannote-3.1` (gated) or `campplus`.")
    align_languages: tuple[str, ...] = Field(
        ("en",), description="Languages whose forced alignment model is pulled ahead of the first use."
    )
    pull_at_start: bool = Field(True, description="Bring the models that are missing when a worker starts; jobs wait meanwhile.")
    pull_on_first_use: bool = Field(
        True, description="Bring the alignment model of a language when a job first needs it; until it is there, times are by attention."
    )
    hf_token: str | None = Field(None, repr=False, description="Hugging Face token, for gated models only.")

    # The engine
    device: Literal["cuda", "cpu"] = Field("cuda", description="`cuda`, or `cpu` by your own choice: a GPU worker never falls back to it.")
    gpu_stack: Literal["auto", "cu118", "none"] = Field(
        "auto",
        description="CUDA libraries to be found: `cu118` torch's own, `auto` what torch brings; `none`: built without, and refuses a GPU.",
    )
    device_index: int = Field(0, ge=0, description="Which GPU, counted from 0.")
    compute_type: str = Field(
        "auto", description="CTranslate2 compute type; `auto` is int8 on cpu, on cuda what the GPU and its memory allow (docs/gpu.md)."
    )
    cpu_threads: int = Field(0, ge=0, description="Threads of the engine on cpu; 0 is one per core.")
    asr_batch_size: int = Field(
        0, ge=0, le=256, description="Most 30-s windows in one Whisper batch, from all jobs in flight; 0: by the GPU's memory, 16 on cpu."
    )
    segmentation_batch_size: int = Field(
        0, ge=0, le=256, description="Most windows in one batch of speaker segmentation and embeddings; 0: by the GPU's memory, 8 on cpu."
    )
    beam_size: int = Field(5, ge=1, le=20, description="Beams of Whisper's search.")
    vad_onset: float = Field(0.5, gt=0, lt=1, description="Speech begins above this probability.")
    vad_offset: float = Field(0.363, gt=0, lt=1, description="Speech ends below this probability.")

    # The queue
    worker_slot: str | None = Field(
        None, description="A name that a restarted worker keeps; workers that share one are numbered; host, device and index if unset."
    )
    max_jobs_in_flight: int = Field(32, ge=1, le=256, description="Most jobs that one worker runs at once.")
    max_audio_in_flight_s: float = Field(
        4 * 3600, gt=0, description="Most audio seconds that one worker holds at once; one longer job may run alone."
    )
    lease_s: float = Field(60, gt=0, description="A runner that is silent for this long has lost its jobs, in seconds.")
    heartbeat_s: float = Field(15, gt=0, description="How often a runner renews its leases, in seconds.")
    sweep_period_s: float = Field(1, gt=0, le=2, description="How often the dispatcher looks for jobs without a wake-up, in seconds.")
    max_losses: int = Field(3, ge=1, description="Runners that a job may lose before it fails as worker_lost.")
    max_failures: int = Field(2, ge=1, description="Times that a stage may break on a job through our fault before it fails.")
    stalled_after_s: float = Field(
        0, ge=0, description="A job without progress for this long ends its worker process and is tried again; 0: 1800, 14400 on cpu."
    )
    deadline_floor_s: float = Field(3600, gt=0, description="What any job may take before it is taken for hanging, in seconds, …")
    deadline_factor: float = Field(
        10, ge=1, description="… and this many times what its audio takes at the speed that the worker's last jobs had."
    )
    stop_grace_s: float = Field(25, ge=0, description="How long a stopping worker lets nearly finished jobs finish, in seconds.")

    # Bursts
    burst: bool = Field(
        False, description="Let Modal take jobs that this box would start too late. Audio then leaves the box, and costs money."
    )
    target_wait_s: float = Field(900, ge=0, description="Jobs that would start later than this after they came are burst, in seconds.")
    burst_day_usd: float = Field(1.0, ge=0, description="Most that bursts may cost in a day (UTC), in dollars, by this box's own ledger.")
    burst_month_usd: float = Field(25.0, ge=0, description="Most that bursts may cost in a calendar month (UTC), in dollars.")

    # Modal
    modal_token_id: str | None = Field(None, pattern=MODAL_TOKEN, description="Modal token's id, for bursts.")
    modal_token_secret: str | None = Field(None, pattern=MODAL_TOKEN, repr=False, description="Modal token's secret.")
    modal_environment: str | None = Field(None, pattern=MODAL_NAME, description="Environment on Modal; the account's default if unset.")
    modal_app: str = Field("spillway", pattern=MODAL_NAME, description="Name of the app on Modal that bursts run in.")
    modal_gpus: tuple[str, ...] = Field(
        ("A10", "L4", "L40S"), min_length=1, description="GPUs that a burst may run on, the preferred first."
    )
    modal_max_containers: int = Field(2, ge=1, le=100, description="Most containers on Modal at once.")
    modal_timeout_s: int = Field(3600, ge=60, le=86400, description="Longest that one call may run on Modal, in seconds.")
    modal_startup_timeout_s: int = Field(
        600, ge=60, le=3600, description="Longest that a container may take to load its models, in seconds."
    )
    modal_scaledown_s: int = Field(
        30, ge=2, le=1200, description="How long a container stays, and costs, when nothing is left to do, in seconds."
    )
    modal_volume: str = Field("spillway-models", pattern=MODAL_NAME, description="Volume on Modal that holds the models.")
    modal_gcs_secret: str | None = Field(
        None, pattern=MODAL_NAME, description="Secret on Modal with SPILLWAY_GCS_CREDENTIALS in it; needed where files are in a bucket."
    )
    modal_hf_secret: str | None = Field(
        None, pattern=MODAL_NAME, description="Secret on Modal with SPILLWAY_HF_TOKEN in it; for gated models only."
    )
    modal_image: str | None = Field(
        None, description="Worker image to run on Modal, by its digest (`registry/name@sha256:…`); unset, Modal builds ours."
    )
    modal_registry_secret: str | None = Field(
        None,
        pattern=MODAL_NAME,
        description="Secret on Modal that opens that image's registry, with the keys that Modal's guide to private registries names.",
    )

    # Logs
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe event that is logged.")
    log_format: Literal["json", "console"] = Field("json", description="`json` for machines, `console` for people.")

    @field_validator("keep_inputs_s", "keep_products_s", "keep_results_s", mode="before")
    @classmethod
    def _or_forever(cls, value: object) -> object:
        return None if value == "forever" else value

    @field_validator("file_store")
    @classmethod
    def _is_a_bucket(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(ADDRESS, value):
            raise ValueError(f"write gs://bucket/prefix, or leave it unset for the folder {variable('file_store_dir')}")
        return value

    @field_validator("gcs_credentials")
    @classmethod
    def _is_a_key(cls, value: str | None) -> str | None:
        try:
            value and credentials_of(value)
        except ValueError:
            raise ValueError(
                f"give a service account's key, the JSON file as Google made it, by {variable('gcs_credentials')}{FILE_SUFFIX}"
            ) from None
        return value

    @field_validator("fetch_allow", "callback_allow")
    @classmethod
    def _names_or_networks(cls, allowed: tuple[str, ...]) -> tuple[str, ...]:
        for one in allowed:
            try:
                HOST_NAME.fullmatch(one.lower()) or ip_network(one)
            except ValueError as error:
                raise ValueError(f"{error}: write host names, as nas.example.com, and networks, as 10.1.0.0/16, without ports") from None
        return tuple(one.lower() for one in allowed)

    @field_validator("modal_gpus")
    @classmethod
    def _runs_the_stack(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [name for name in names if name not in MODAL_GPUS]:
            raise ValueError(f"{', '.join(wrong)} on Modal does not run this stack: choose from {', '.join(MODAL_GPUS)}")
        return names

    @field_validator("modal_image")
    @classmethod
    def _by_digest(cls, image: str | None) -> str | None:
        if image is not None and not re.fullmatch(r"[^\s@]+@sha256:[0-9a-f]{64}", image):
            raise ValueError("name the image by its digest, registry/name@sha256:…, as `docker push` tells it: a tag may move")
        return image

    @field_validator("webhook_secret")
    @classmethod
    def _can_sign(cls, secrets: tuple[str, ...]) -> tuple[str, ...]:
        if all(map(_is_webhook_secret, secrets)):
            return secrets
        raise ValueError(f"write whsec_ and the base64 of 24 to 64 random bytes, as from: {MAKE_WEBHOOK_SECRET}")

    @model_validator(mode="after")
    def _work_together(self) -> Self:
        if 2 * self.heartbeat_s > self.lease_s:
            raise ValueError(f"{variable('heartbeat_s')} is more than half of {variable('lease_s')}: it must outlive a missed heartbeat")
        if 8 * self.sweep_period_s > self.lease_s:  # the reclaimer takes a gap of a quarter of a lease for an outage of Redis
            raise ValueError(
                f"{variable('sweep_period_s')} is more than an eighth of {variable('lease_s')}: the dispatcher's own pauses would look like"
                " outages of Redis, after which nothing is taken back"
            )
        if self.vad_offset > self.vad_onset:
            raise ValueError(f"{variable('vad_offset')} is above {variable('vad_onset')}: speech would end before it begins")
        return self

    def as_environment(self, fields: Iterable[str]) -> dict[str, str]:
        """Variables that give these fields the same values elsewhere; without those that are unset."""
        values = {variable(field): getattr(self, field) for field in fields}
        return {name: ",".join(value) if isinstance(value, tuple) else str(value) for name, value in values.items() if value is not None}

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, *, without: Collection[str] = ()) -> Self:
        """The settings of this process; fields `without` keep their defaults.

        Raises `SettingsError` naming every variable that is unknown or wrong. An empty variable counts as unset;
        `SPILLWAY_X_FILE` in place of `SPILLWAY_X` names a file that holds the value.
        """
        given = {
            name: value
            for name, value in (os.environ if environment is None else environment).items()
            if name.startswith(PREFIX) and name not in NOT_OURS and value and field_name(_plain(name)) not in without
        }
        unknown = sorted(name for name in given if field_name(_plain(name)) not in cls.model_fields)
        if unknown:
            raise SettingsError(f"unknown setting {', '.join(unknown)}: the README's table lists them all")
        values = _with_files_read(given)
        try:
            return cls.model_validate({field_name(name): _parsed(field_name(name), value) for name, value in values.items()})
        except ValidationError as error:
            raise SettingsError("; ".join(_complaint(problem) for problem in error.errors())) from None


def variable(field: str) -> str:
    return PREFIX + field.upper()


def field_name(variable_name: str) -> str:
    return variable_name.removeprefix(PREFIX).lower()


def _is_webhook_secret(text: str) -> bool:
    """As Standard Webhooks has it."""
    try:
        return text.startswith("whsec_") and 24 <= len(b64decode(text.removeprefix("whsec_"), validate=True)) <= 64
    except ValueError:
        return False


def _plain(variable_name: str) -> str:
    """Without the suffix that makes it name a file."""
    return variable_name.removesuffix(FILE_SUFFIX)


def _with_files_read(given: Mapping[str, str]) -> dict[str, str]:
    both = sorted(name for name in given if name != _plain(name) and _plain(name) in given)
    if both:
        raise SettingsError("; ".join(f"{_plain(name)} and {name} are both set: unset one of them" for name in both))
    return {_plain(name): value if name == _plain(name) else _content(name, value) for name, value in given.items()}


def _content(name: str, path: str) -> str:
    try:
        content = Path(path).read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"{name} is {path}, which cannot be read: {why}") from None
    if not content:
        raise SettingsError(f"{name} is {path}, which is empty: put the value in, or unset the variable")
    return content


def _parsed(field: str, value: str) -> Any:
    wants_list = Settings.model_fields[field].annotation == tuple[str, ...]
    return tuple(part.strip() for part in value.split(",") if part.strip()) if wants_list else value


def _complaint(problem: Any) -> str:
    said = problem["msg"].removeprefix("Value error, ")
    return f"{variable(str(problem['loc'][0]))} is wrong: {said}" if problem["loc"] else str(said)
