"""Which jobs go to the cloud now. Pure: the same view and memory give the same decision."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf

from dispatcher.burst.bundles import LateJob, Plan, Planned, plan
from dispatcher.burst.cloud_starts import CloudStarts, containers_free_s, starts_in_s
from dispatcher.burst.lateness import AHEAD_S, counted, due_s, growth, margin_s, may_be_late
from dispatcher.burst.local_starts import LocalStarts
from dispatcher.burst.price import overhead_s, reserve_dollars
from dispatcher.burst.view import Bundle, Decision, Memory, PendingJob, TakeBack, View

LEAST_GAIN_S = 10.0  # a start that is sooner by less is not worth moving a job
POLLS_IN_FAVOUR = 2  # before a container is brought up, if there is time for another look
START_PAUSE_S = 60.0  # between two starts of a burst at least: never two flaps a minute
WORK_PER_START = 1.0  # a container comes up for at least as much work, with what is about to come, as its start-up and scale-down take


def decide(view: View, memory: Memory) -> tuple[Decision, Memory]:
    refusal, memory = refusal_of(view), counted(view, memory)
    starts, late = _part(view, may_leave=not refusal)
    containers_on = len(containers_free_s(view.cloud))
    chosen = plan(view, late, containers_on, may_be_late=may_be_late(memory))
    memory, waiting = _weighed(view, memory, chosen, containers_on)
    usable = plan(view, late, containers_on, most=0 if _is_too_soon(view, memory) else containers_on) if waiting else chosen
    bundles = _affordable(view, usable)[: 1 if view.cloud.is_tried else None]
    memory = _after(view, memory, bundles)
    decision = Decision(
        bundles,
        () if bundles else _taken_back(view),
        min(view.rules.containers_max, containers_on + sum(bundle.needs_container for bundle in bundles)),
        starts | _cloud_starts(view, chosen, waiting),
        tuple(reason for reason in (refusal, waiting, None if refusal else _too_dear(view, starts)) if reason),
    )
    return decision, memory


def refusal_of(view: View) -> str | None:
    """Why nothing can leave, as far as that is plain at a glance."""
    if view.cloud.is_breaker_open:
        return "Modal has failed too often lately: everything waits for the local GPUs until it has been tried again"
    shortest_s = min((job.audio_s for job in view.pending), default=0.0)
    if view.pending and _left_dollars(view) <= _least_dollars(view, shortest_s):
        return f"${max(0.0, _left_dollars(view)):.2f} are left under the caps, too little for the shortest of the jobs"
    return None


def _part(view: View, *, may_leave: bool) -> tuple[dict[str, float], list[LateJob]]:
    """When the local GPUs start those that stay, and those that they would start too late once the late ones before are gone."""
    queue, starts, late = LocalStarts(view.local), dict[str, float](), list[LateJob]()
    heads = 0 if view.local.real_time_factor else len(view.local.gpus)  # of an unknown speed: each GPU's next job stays in any case
    latest_s = due_s(view)
    sooner_s = CloudStarts(view.cloud, view.rules, max(1, view.rules.containers_max)).place(0).start_s + LEAST_GAIN_S
    for place_in_queue, job in enumerate(view.pending):
        place = queue.place(job)
        stays = not may_leave or job.is_local_only or job.is_suspect or place_in_queue < heads or _is_too_dear(view, job)
        if not stays and place.start_s > sooner_s and _is_late(view, job, place.start_s, latest_s):
            late.append(LateJob(job, place.start_s))
            continue
        queue.take(place)
        if place.start_s < inf:
            starts[job.id] = place.start_s
    return starts, late


def _is_too_dear(view: View, job: PendingJob) -> bool:
    return _least_dollars(view, job.audio_s) > _left_dollars(view)


def _least_dollars(view: View, audio_s: float) -> float:
    is_up = bool(view.cloud.idle_containers or view.cloud.calls)
    return reserve_dollars(audio_s, view.cloud, view.rules, needs_container=not is_up)


def _is_late(view: View, job: PendingJob, local_start_s: float, latest_s: float) -> bool:
    """With an unknown speed only what has waited for nearly the target already is known to be late."""
    if local_start_s == inf and view.local.gpus:
        return job.age_s + view.cloud.cold_start_s >= view.rules.target_wait_s
    return job.age_s + local_start_s > latest_s


def _weighed(view: View, memory: Memory, chosen: Plan, containers_on: int) -> tuple[Memory, str | None]:
    """Whether one more container may come up now, and if not, why."""
    if chosen.planned and _is_too_soon(view, memory):
        return memory, f"{_late(view, chosen)}; the last burst began less than {START_PAUSE_S:.0f} s ago"
    if not chosen.planned or chosen.containers <= containers_on:
        return replace(memory, polls_in_favour=0), None
    early_s = chosen.slack_s - margin_s(view)
    if not _is_worth_a_start(view, chosen):
        return replace(memory, polls_in_favour=0), f"{_late(view, chosen)}; too little work to bring up a container for"
    if early_s > 0:
        reason = f"{_late(view, chosen)}; a container is early enough in {early_s:.0f} s, and more jobs may share it by then"
        return replace(memory, polls_in_favour=0), reason
    memory = replace(memory, polls_in_favour=memory.polls_in_favour + 1)
    if memory.polls_in_favour < POLLS_IN_FAVOUR and not chosen.hurries(view.rules.poll_s):
        return memory, f"{_late(view, chosen)}; the next look decides"
    return memory, None


def _is_too_soon(view: View, memory: Memory) -> bool:
    return not memory.is_on and memory.last_start_s is not None and view.now_s - memory.last_start_s < START_PAUSE_S


def _is_worth_a_start(view: View, chosen: Plan) -> bool:
    audio_s = sum(each.audio_s for each in chosen.planned) + AHEAD_S * growth(view)
    return audio_s / view.cloud.real_time_factor >= WORK_PER_START * overhead_s(view.cloud, view.rules)


def _late(view: View, chosen: Plan) -> str:
    jobs = sum(len(each.late) for each in chosen.planned)
    nearly = "" if due_s(view) == view.rules.target_wait_s else ", or nearly so"
    return f"{jobs} job{'s' if jobs > 1 else ''} would start too late here{nearly}"


def _too_dear(view: View, starts: Mapping[str, float]) -> str | None:
    stay = [
        job.id for job in view.pending if _is_too_dear(view, job) and _is_late(view, job, starts.get(job.id, inf), view.rules.target_wait_s)
    ]
    return (
        f"{', '.join(stay[:5])} will be late here, but might cost more than the ${_left_dollars(view):.2f} that are left" if stay else None
    )


def _affordable(view: View, chosen: Plan) -> tuple[Bundle, ...]:
    bundles, left = list[Bundle](), _left_dollars(view)
    for each in chosen.planned:
        bundle = _bundle(view, each, left) if each.slot.takes_now else None
        if bundle:
            bundles.append(bundle)
            left -= bundle.reserve_dollars
    return tuple(bundles)


def _bundle(view: View, each: Planned, left_dollars: float) -> Bundle | None:
    """As many of its oldest jobs as the money is enough for."""
    jobs, audio_s, dollars = list[LateJob](), 0.0, 0.0
    for one in each.late:
        if _gains(one, each):
            more = reserve_dollars(audio_s + one.job.audio_s, view.cloud, view.rules, needs_container=each.slot.is_cold)
            if more > left_dollars:
                continue
            jobs, audio_s, dollars = [*jobs, one], audio_s + one.job.audio_s, more
    if not jobs:
        return None
    return Bundle(tuple(one.job.id for one in jobs), audio_s, dollars, each.slot.is_cold, _why(jobs, each, dollars))


def _gains(one: LateJob, each: Planned) -> bool:
    return one.local_start_s > each.slot.start_s


def _why(jobs: Sequence[LateJob], each: Planned, dollars: float) -> str:
    first_s, count = jobs[0].local_start_s, f"{len(jobs)} job{'s' if len(jobs) > 1 else ''}"
    here = "at a time that nobody knows" if first_s == inf else f"in {first_s:.0f} s"
    there = f"in a {'new' if each.slot.is_cold else 'warm'} container in {each.slot.start_s:.0f} s"
    return f"{count}: the first would start here {here}, {there}; ${dollars:.3f} at most"


def _after(view: View, memory: Memory, bundles: Sequence[Bundle]) -> Memory:
    if bundles and not memory.is_on:
        return replace(memory, is_on=True, last_start_s=view.now_s, polls_in_favour=0)
    return replace(memory, is_on=bool(bundles or view.cloud.calls), polls_in_favour=0 if bundles else memory.polls_in_favour)


def _cloud_starts(view: View, chosen: Plan, waiting: str | None) -> dict[str, float]:
    held_s = max(0.0, chosen.slack_s - margin_s(view)) if waiting else 0.0
    return {one.job.id: min(one.local_start_s, each.slot.start_s + held_s) for each in chosen.planned for one in each.late}


def _taken_back(view: View) -> tuple[TakeBack, ...]:
    """Of the calls that have not started, the newest, one for each local GPU that nothing else would keep busy."""
    speed, soon_s = view.local.real_time_factor, 2 * view.rules.poll_s
    if view.pending:
        return ()
    idle = sum(sum(job.left_audio_s for job in gpu.running) <= soon_s * (speed or 0.0) for gpu in view.local.gpus)
    waiting = [call for call in view.cloud.calls if not call.has_started and starts_in_s(call, view.cloud) > soon_s]
    why = "a local GPU is about to have nothing to do, and this call has not started"
    return tuple(TakeBack(call.id, why) for call in waiting[len(waiting) - min(idle, len(waiting)) :])


def _left_dollars(view: View) -> float:
    return min(view.budget.today_dollars, view.budget.month_dollars)
