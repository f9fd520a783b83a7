"""Packs late jobs into bundles, oldest first, and says when containers would start them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dispatcher.burst.cloud_starts import CloudStarts, Slot
from dispatcher.burst.view import PendingJob, Rules, View


@dataclass(frozen=True)
class LateJob:
    """One that the local GPUs would start too late."""

    job: PendingJob
    local_start_s: float


@dataclass(frozen=True)
class Planned:
    late: tuple[LateJob, ...]
    slot: Slot

    @property
    def jobs(self) -> tuple[PendingJob, ...]:
        return tuple(late.job for late in self.late)

    @property
    def audio_s(self) -> float:
        return sum(late.job.audio_s for late in self.late)


@dataclass(frozen=True)
class Plan:
    """All late jobs on so many containers."""

    containers: int
    planned: tuple[Planned, ...]
    slack_s: float  # how much later it could begin, and every job still start within the target; negative: some will not


def plan(view: View, late: Sequence[LateJob], containers_on: int, most: int | None = None) -> Plan:
    """On as few containers as start all in time, else on as many as there may be: `most`, by the rules if not given."""
    most = max(view.rules.containers_max, containers_on) if most is None else most
    found = Plan(containers_on, (), 0.0)
    for containers in range(max(1, containers_on), most + 1):
        found = _on(view, late, containers)
        if found.slack_s >= 0:
            break
    return found


def _on(view: View, late: Sequence[LateJob], containers: int) -> Plan:
    cloud = CloudStarts(view.cloud, view.rules, containers)
    planned = [Planned(tuple(bundle), cloud.take([one.job for one in bundle])) for bundle in _packed(late, view.rules)]
    slacks = [view.rules.target_wait_s - one.job.age_s - each.slot.start_s for each in planned for one in each.late]
    return Plan(containers if planned else 0, tuple(planned), min(slacks, default=0.0))


def _packed(late: Sequence[LateJob], rules: Rules) -> Iterator[list[LateJob]]:
    bundle: list[LateJob] = []
    audio_s = 0.0
    for one in late:
        if bundle and (len(bundle) == rules.bundle_jobs_max or audio_s + one.job.audio_s > rules.bundle_audio_max_s):
            yield bundle
            bundle, audio_s = [], 0.0
        bundle.append(one)
        audio_s += one.job.audio_s
    if bundle:
        yield bundle
