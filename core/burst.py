"""What the dispatcher and a container on Modal say to each other.

On the way everything is plain JSON, and recordings bytes beside it: neither side unpickles a class of the other's.
"""

from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.job import JobFailure, JobOptions, Stage
from core.transcript import Notice

CONTRACT = 2  # raised by every change here: a dispatcher and a deployment that differ in it do not work together
REVOKED = b"taken back"  # written over an attempt's claim, it ends that job in its container, alone
CONTAINER_CORES, CONTAINER_GIB = 4.0, 16  # for decoding, and for a large model on its way to the GPU: asked for, and paid
DEPLOY = "modal deploy modal_deploy.py"
Seconds = Annotated[float, Field(ge=0, le=86_400)]  # as long as Modal lets a call run at most


class Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)

    def plain(self) -> dict[str, Any]:
        """JSON's own types alone."""
        return self.model_dump(mode="json")


class BundleJob(Value):
    """One attempt at one job. Its recording is in the bundle's file store, or comes beside the bundle as FLAC, cut to the clip."""

    id: str
    attempt: int  # the fencing token
    options: JobOptions
    duration_s: float  # of the file
    input_key: str = ""  # empty when the recording comes beside the bundle
    input_sha256: str = ""
    products: dict[str, str] = Field(default_factory=dict)  # stage → key in the file store, of earlier attempts
    product_sha256: dict[str, str] = Field(default_factory=dict)

    @property
    def work_s(self) -> float:
        return self.options.clip_s(self.duration_s)


class Bundle(Value):
    """What one call runs."""

    contract: int = CONTRACT
    file_store: str | None = None  # `gs://bucket/prefix`; without one, results come back in the receipts
    deadline_s: float = Field(gt=0)  # from when the container takes it up; what is not done then is handed back
    jobs: tuple[BundleJob, ...] = Field(min_length=1)


class Outcome(StrEnum):
    """What the dispatcher is to make of an attempt."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the caller's error: final
    BROKE = "broke"  # ours: tried again, and counted
    RETURNED = "returned"  # nothing is wrong with the job: handed back, and not counted
    LOST = "lost"  # its claim is another's: nothing is to be done


class Receipt(Value):
    job_id: str
    attempt: int
    outcome: Outcome
    error: JobFailure | None = None  # of FAILED and BROKE as a local runner gives it; of RETURNED, why
    transcript: str | None = None  # canonical JSON, where there is no file store
    result_key: str | None = None  # where it is, where there is one
    sha256: str | None = None  # of the canonical JSON
    warnings: tuple[Notice, ...] = ()
    stages_s: dict[str, Seconds] = Field(default_factory=dict)
    products: dict[Stage, str] = Field(default_factory=dict)  # their keys, of this attempt
    product_sha256: dict[Stage, str] = Field(default_factory=dict)
    seconds: Seconds = 0.0  # it took, beside the others of its bundle


class Stack(Value):
    """What a result depends on besides its recording: digests to be equal here and there."""

    lock_sha256: str
    models_sha256: str


class Container(Value):
    device: str
    stack: Stack
    cold_start_s: Seconds  # from its process' start until its models were loaded
    bundles_before: int  # 0: this call waited for the cold start


class Reply(Value):
    """The receipts of a bundle's jobs in its order; or, when none of them was run, why."""

    contract: int = CONTRACT
    receipts: tuple[Receipt, ...] = ()
    refusal: JobFailure | None = None
    container: Container | None = None
    started_at: float = 0.0  # when the container took the bundle up, by its clock
    seconds: Seconds = 0.0  # that the bundle took: with the cold start and the time until it is let go, what the GPU costs

    @classmethod
    def read(cls, said: Any) -> Self:
        """What a container gave back; one of another version, or none of ours, is a refusal."""
        if (other := _contract(said)) != CONTRACT:
            return cls(refusal=mismatch(f"the deployment on Modal speaks version {other}, this dispatcher {CONTRACT}"))
        try:
            return cls.model_validate(said)
        except ValidationError as error:
            return cls(refusal=mismatch(f"the deployment on Modal gave what cannot be read ({error.error_count()} faults)"))


def read_bundle(said: Any) -> Bundle | Reply:
    """What a dispatcher sent; or the refusal that it gets for an answer."""
    if (other := _contract(said)) != CONTRACT:
        return Reply(refusal=mismatch(f"the dispatcher speaks version {other}, this deployment {CONTRACT}"))
    try:
        return Bundle.model_validate(said)
    except ValidationError as error:
        return Reply(refusal=mismatch(f"the dispatcher sent what cannot be read ({error.error_count()} faults)"))


def mismatch(found: str) -> JobFailure:
    return JobFailure(code="contract_mismatch", message=f"{found}: run `{DEPLOY}` from the release that the box runs")


def _contract(said: Any) -> Any:
    return said.get("contract") if isinstance(said, dict) else None
