"""Moments for the policy, of which a test names only what it is about."""

from dataclasses import replace

from dispatcher.burst.policy import decide
from dispatcher.burst.view import Budget, Call, Cloud, Decision, Gpu, Local, Memory, PendingJob, Rules, RunningJob, View

MINUTE_S, HOUR_S = 60.0, 3600.0
RULES = Rules(container_dollars_per_s=0.0004)
BUSY = Gpu((RunningJob(4 * HOUR_S, 4 * HOUR_S),))  # as much as it may hold: 16 minutes of work at 15 times real time
LOCAL = Local((BUSY,), 15.0)
CLOUD = Cloud(cold_start_s=40.0, real_time_factor=30.0, upload_bytes_per_s=2.5e6)
VIEW = View(1000.0, (), LOCAL, CLOUD, Budget(1.0, 25.0), RULES)
READY = Memory(polls_in_favour=5)  # many looks have been in favour


def job(name: str, *, audio_s: float = 10 * MINUTE_S, age_s: float = 0.0, **more: int | bool) -> PendingJob:
    return PendingJob(name, audio_s, age_s, **more)  # type: ignore[arg-type]


def overdue(count: int, *, audio_s: float = 10 * MINUTE_S, **more: int | bool) -> tuple[PendingJob, ...]:
    return tuple(job(f"j{i}", audio_s=audio_s, age_s=14.5 * MINUTE_S, **more) for i in range(count))


def warm(cloud: Cloud = CLOUD) -> Cloud:
    return replace(cloud, idle_containers=1)


def decided(view: View, memory: Memory = READY) -> Decision:
    return decide(view, memory)[0]


def sent(view: View, memory: Memory = READY) -> list[str]:
    return [job_id for bundle in decided(view, memory).bundles for job_id in bundle.job_ids]


def call(name: str, *, has_started: bool = False, since_s: float = 0.0) -> Call:
    return Call(name, 600.0, has_started, since_s)
