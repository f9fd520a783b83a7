"""What a call may cost, before it is made."""

from dispatcher.burst.view import Cloud, Rules

RUN_RESERVE = 2.0  # a run may take this much longer than expected before its reservation is used up


def overhead_s(cloud: Cloud, rules: Rules) -> float:
    """Container seconds that are paid for although no audio is worked on: once for every container that is brought up."""
    return cloud.cold_start_s + rules.scale_down_s


def reserve_dollars(audio_s: float, cloud: Cloud, rules: Rules, *, needs_container: bool) -> float:
    """Start-up, twice the expected run, scale-down."""
    start_s = cloud.cold_start_s if needs_container else 0.0
    return rules.container_dollars_per_s * (start_s + RUN_RESERVE * audio_s / cloud.real_time_factor + rules.scale_down_s)
