"""When a job counts as late, how many may be, and what the rate of arrivals says of the next minutes."""

from dataclasses import replace
from math import exp, inf

from dispatcher.burst.view import Memory, View

MAY_BE_LATE = 0.01  # share of jobs: what is spent of the 5 % that a p95 leaves; the rest is for what nobody foresees
DAY_S = 86_400.0  # in which what was seen fades
RECENT_S = 60.0
AHEAD_S = 120.0  # for so long the rate of the last minute is taken to go on
MARGIN_POLLS = 2.0
MARGIN_COLD_STARTS = 0.25  # a cold start takes longer than measured by that much now and then
LEAST_DUE = 0.3  # of the target


def margin_s(view: View) -> float:
    return MARGIN_POLLS * view.rules.poll_s + MARGIN_COLD_STARTS * view.cloud.cold_start_s


def due_s(view: View) -> float:
    """The wait beyond which a job counts as late: the target, or less where a cold start takes more than half of it, since a container
    that is called for when the first job is late comes up too late for all of them."""
    target_s = view.rules.target_wait_s
    beyond_half_s = view.cloud.cold_start_s + margin_s(view) - target_s / 2
    return max(LEAST_DUE * target_s, min(target_s, target_s - beyond_half_s))


def growth(view: View) -> float:
    """Audio seconds per second that come in beyond what the local GPUs get through, by the last minute; of those that wait."""
    come = sum(job.audio_s for job in view.pending if job.age_s < RECENT_S) / RECENT_S
    return max(0.0, come - (view.local.real_time_factor or 0.0) * len(view.local.gpus))


def counted(view: View, memory: Memory) -> Memory:
    """Remembers the jobs that came since the last look, and those that became late; who came and went in between is not seen."""
    since_s = inf if memory.looked_s is None else view.now_s - memory.looked_s
    target_s, fade = view.rules.target_wait_s, exp(-since_s / DAY_S)
    seen = sum(job.age_s < since_s for job in view.pending)
    late = sum(target_s < job.age_s <= target_s + since_s for job in view.pending)
    return replace(memory, looked_s=view.now_s, seen=memory.seen * fade + seen, late=memory.late * fade + late)


def may_be_late(memory: Memory) -> int:
    """So many more jobs."""
    return int(max(0.0, MAY_BE_LATE * memory.seen - memory.late))
