"""What the policy is told of a moment, and what it answers. All durations in seconds from that moment."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PendingJob:
    id: str
    audio_s: float
    age_s: float
    upload_bytes: int = 0  # what would leave the box with it; none when the bucket has it
    is_local_only: bool = False
    is_suspect: bool = False  # it has cost runners before: it runs alone, and never for money


@dataclass(frozen=True)
class RunningJob:
    audio_s: float
    left_audio_s: float


@dataclass(frozen=True)
class Gpu:
    """A local GPU that is fit; one that is not is left out."""

    running: tuple[RunningJob, ...] = ()
    is_alone: bool = False  # it holds a suspect, beside which nothing runs


@dataclass(frozen=True)
class Local:
    gpus: tuple[Gpu, ...]
    real_time_factor: float | None  # audio seconds per second of ONE busy GPU over all its jobs together; None before a measurement
    jobs_in_flight_max: int = 32  # of one GPU
    audio_in_flight_max_s: float = 4 * 3600  # of one GPU


@dataclass(frozen=True)
class Call:
    """A bundle that was handed to the cloud and has not ended."""

    id: str
    audio_s: float
    has_started: bool
    since_s: float  # it started, or else was handed over, this long ago
    upload_left_bytes: int = 0
    needs_container: bool = True  # one had to be brought up for it; otherwise it waits for one that was there


@dataclass(frozen=True)
class Cloud:
    cold_start_s: float  # measured
    real_time_factor: float  # of one container with full bundles, measured
    upload_bytes_per_s: float  # measured
    calls: tuple[Call, ...] = ()
    idle_containers: int = 0  # warm, and paid for until they scale down
    is_breaker_open: bool = False
    is_tried: bool = False  # it failed, and one call finds out whether it is well again


@dataclass(frozen=True)
class Budget:
    """What is left under the caps, reservations of all calls in flight taken off already."""

    today_dollars: float
    month_dollars: float


@dataclass(frozen=True)
class Rules:
    container_dollars_per_s: float  # GPU, CPU and memory
    target_wait_s: float = 900.0
    bundle_jobs_max: int = 64
    bundle_audio_max_s: float = 900.0
    containers_max: int = 2
    scale_down_s: float = 30.0
    poll_s: float = 5.0


@dataclass(frozen=True)
class View:
    now_s: float  # of any clock that never goes back
    pending: tuple[PendingJob, ...]  # in the order of claims
    local: Local
    cloud: Cloud
    budget: Budget
    rules: Rules


@dataclass(frozen=True)
class Memory:
    """What one decision hands to the next."""

    polls_in_favour: int = 0
    is_on: bool = False
    last_start_s: float | None = None
    looked_s: float | None = None  # when the last look was
    seen: float = 0.0  # jobs of the last day, fading
    late: float = 0.0  # of them: those that had waited for longer than the target


@dataclass(frozen=True)
class Bundle:
    """Jobs for one call, to be claimed and handed over now."""

    job_ids: tuple[str, ...]
    audio_s: float
    reserve_dollars: float
    needs_container: bool
    why: str


@dataclass(frozen=True)
class TakeBack:
    call_id: str
    why: str


@dataclass(frozen=True)
class Decision:
    bundles: tuple[Bundle, ...] = ()
    take_back: tuple[TakeBack, ...] = ()
    containers_wanted: int = 0  # those that run or come, and those that the bundles bring up
    starts_in_s: Mapping[str, float] = field(default_factory=dict)  # of pending jobs; one whose start is unknown is missing
    why: tuple[str, ...] = ()  # of the whole, in plain words

    @property
    def dollars(self) -> float:
        return sum(bundle.reserve_dollars for bundle in self.bundles)
