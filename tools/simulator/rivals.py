"""What others do, for comparison: policies of the same shape as ours, under the same caps."""

from collections.abc import Iterable

from dispatcher.burst.cloud_starts import containers_free_s
from dispatcher.burst.price import reserve_dollars
from dispatcher.burst.view import Bundle, Decision, Memory, PendingJob, View

QUEUE_LENGTH = 10  # jobs that wait, for the threshold


def at_submit(view: View, memory: Memory) -> tuple[Decision, Memory]:
    """Decided once, when a job comes in: to the cloud, in a call of its own, if what waits before it is more than the target."""
    speed, ahead_s, chosen = view.local.real_time_factor, 0.0, list[list[PendingJob]]()
    for job in view.pending:
        if job.age_s < view.rules.poll_s and speed and ahead_s / (speed * len(view.local.gpus)) > view.rules.target_wait_s:
            chosen.append([job])
        else:
            ahead_s += job.audio_s
    return _sent(view, chosen), memory


def by_queue_length(view: View, memory: Memory) -> tuple[Decision, Memory]:
    """Whatever waits beyond ten jobs, in bundles, as soon as a container may take it."""
    room = view.rules.containers_max - len(containers_free_s(view.cloud)) + view.cloud.idle_containers
    return _sent(view, list(_packed(view.pending[QUEUE_LENGTH:], view))[: max(0, room)]), memory


def _packed(jobs: Iterable[PendingJob], view: View) -> Iterable[list[PendingJob]]:
    bundle = list[PendingJob]()
    for job in jobs:
        audio_s = sum(one.audio_s for one in bundle) + job.audio_s
        if bundle and (len(bundle) == view.rules.bundle_jobs_max or audio_s > view.rules.bundle_audio_max_s):
            yield bundle
            bundle = []
        bundle.append(job)
    if bundle:
        yield bundle


def _sent(view: View, chosen: Iterable[list[PendingJob]]) -> Decision:
    left, bundles = min(view.budget.today_dollars, view.budget.month_dollars), list[Bundle]()
    for jobs in chosen:
        audio_s = sum(job.audio_s for job in jobs)
        dollars = reserve_dollars(audio_s, view.cloud, view.rules, needs_container=True)
        if dollars <= left:
            left -= dollars
            bundles.append(Bundle(tuple(job.id for job in jobs), audio_s, dollars, True, ""))
    return Decision(tuple(bundles), containers_wanted=view.rules.containers_max)
