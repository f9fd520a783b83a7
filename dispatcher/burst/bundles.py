"""Packs late jobs into bundles, and says when containers would start them."""

from collections.abc import Sequence
from dataclasses import dataclass

from dispatcher.burst.cloud_starts import CloudStarts, Slot
from dispatcher.burst.view import PendingJob, View


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
    slacks_s: tuple[float, ...] = ()  # job by job, how much later it could start within the target

    @property
    def missed(self) -> int:
        return sum(slack_s < 0 for slack_s in self.slacks_s)

    @property
    def slack_s(self) -> float:
        """How much later it could begin, and every job still start within the target; negative: some will not."""
        return min(self.slacks_s, default=0.0)

    def hurries(self, within_s: float) -> bool:
        """If it began so much later, a job would miss the target that now keeps it."""
        return any(0 <= slack_s < within_s for slack_s in self.slacks_s)


def plan(view: View, late: Sequence[LateJob], containers_on: int, *, most: int | None = None, may_be_late: int = 0) -> Plan:
    """On as few containers as start all in time but so many, else on as many as there may be: `most`, by the rules if not given."""
    most = max(view.rules.containers_max, containers_on) if most is None else most
    found = Plan(containers_on, ())
    for containers in range(max(1, containers_on), most + 1):
        found = _on(view, late, containers)
        if found.missed <= may_be_late:
            break
    return found


def _on(view: View, late: Sequence[LateJob], containers: int) -> Plan:
    cloud, target_s = CloudStarts(view.cloud, view.rules, containers), view.rules.target_wait_s
    planned, left = list[Planned](), list(late)
    while left:
        bundle = _next_bundle(view, left, cloud)
        planned.append(Planned(tuple(bundle), cloud.take([one.job for one in bundle])))
        taken = {one.job.id for one in bundle}
        left = [one for one in left if one.job.id not in taken]
    slacks_s = tuple(target_s - one.job.age_s - each.slot.start_s for each in planned for one in each.late)
    return Plan(containers if planned else 0, tuple(planned), slacks_s)


def _next_bundle(view: View, left: Sequence[LateJob], cloud: CloudStarts) -> list[LateJob]:
    """Those that can still start in time, and then the others, which are the next of the local GPUs, if there are any; oldest first."""
    latest_s = view.rules.target_wait_s - cloud.place(left[0].job.upload_bytes).start_s
    savable = [one for one in left if one.job.age_s <= latest_s] if view.local.gpus else []
    bundle, audio_s = list[LateJob](), 0.0
    for one in savable or left:
        if bundle and (len(bundle) == view.rules.bundle_jobs_max or audio_s + one.job.audio_s > view.rules.bundle_audio_max_s):
            break
        bundle.append(one)
        audio_s += one.job.audio_s
    return bundle
