"""What is simulated, and where each figure comes from."""

from dataclasses import dataclass

from dispatcher.burst.tariff import price_per_s
from dispatcher.burst.view import Rules


@dataclass(frozen=True)
class LocalBox:
    """ASSUMED: nobody has measured the pinned stack on a GPU yet (docs/not-proven.md). 15 audio seconds per second of one busy GPU
    lies between what is claimed for plain WhisperX with speakers on an A10G (5 to 10) and without them on larger cards (70)."""

    gpus: int = 1
    real_time_factor: float = 15.0
    job_overhead_audio_s: float = 1.0  # ASSUMED: what a job costs beside its audio, in audio seconds
    jobs_in_flight_max: int = 32  # SPILLWAY_MAX_JOBS_IN_FLIGHT's default
    audio_in_flight_max_s: float = (
        3600.0  # SPILLWAY_MAX_AUDIO_IN_FLIGHT_S of such a GPU: its default of 4 hours would be 16 minutes of work
    )
    away: tuple[tuple[float, float], ...] = ()  # from, to: the last of the GPUs is dead, and what it held waits again

    def gpus_at(self, at_s: float) -> int:
        return self.gpus - any(start_s <= at_s < end_s for start_s, end_s in self.away)


@dataclass(frozen=True)
class Modal:
    """ASSUMED: nothing has run on Modal yet. A cold start of 20 to 60 s is an estimate, and a container with full bundles is taken for
    twice as fast as the box's GPU."""

    cold_start_median_s: float = 40.0
    cold_start_spread: float = 0.25  # of the logarithm
    real_time_factor: float = 30.0
    run_spread: float = 0.1  # of the logarithm, call by call
    call_overhead_s: float = 1.0
    upload_bytes_per_s: float = 2.5e6  # 20 Mbit/s
    bytes_per_audio_s: float = 16_000.0  # FLAC at about half of 16 kHz, 16 bit, mono
    outages: tuple[tuple[float, float], ...] = ()  # from, to


@dataclass(frozen=True)
class Arrival:
    at_s: float
    audio_s: float


@dataclass(frozen=True)
class Trace:
    name: str
    arrivals: tuple[Arrival, ...]
    modal: Modal = Modal()
    box: LocalBox = LocalBox()
    seed: int = 0  # of what the cloud draws: how long its starts and runs take


@dataclass(frozen=True)
class Caps:
    day_dollars: float = 1.0
    month_dollars: float = 25.0


def rules(target_wait_s: float) -> Rules:
    return Rules(container_dollars_per_s=price_per_s("A10"), target_wait_s=target_wait_s)


@dataclass(frozen=True)
class Outcome:
    waits_s: list[float]
    dollars: float
    starts: int  # of containers
    busy_s: float  # of the local GPUs
    span_s: float  # until the last job was done
