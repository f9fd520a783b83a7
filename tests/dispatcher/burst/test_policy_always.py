"""What holds of every decision, whatever the moment."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatcher.burst.cloud_starts import containers_free_s
from dispatcher.burst.lateness import due_s, margin_s
from dispatcher.burst.local_starts import LocalStarts
from dispatcher.burst.policy import START_PAUSE_S, decide
from dispatcher.burst.view import Budget, Call, Cloud, Decision, Gpu, Local, Memory, PendingJob, Rules, RunningJob, View

RULES = Rules(container_dollars_per_s=0.0004)
lengths_s = st.floats(60, 3600)
ages_s = st.floats(0, 1800)
seldom = st.sampled_from([False, False, False, True])
marks = st.integers(0, 9).map(lambda drawn: drawn == 9)
jobs = st.builds(PendingJob, st.just(""), lengths_s, ages_s, st.integers(0, 10**7), marks, marks)
queues = st.lists(jobs, min_size=3, max_size=12).map(lambda found: tuple(replace(job, id=f"j{place}") for place, job in enumerate(found)))
running = st.builds(lambda audio_s, left: RunningJob(audio_s, audio_s * left), lengths_s, st.floats(0, 1))
gpus = st.builds(Gpu, st.lists(running, min_size=4, max_size=8).map(tuple), seldom)
locals_ = st.builds(Local, st.lists(gpus, max_size=2).map(tuple), st.one_of(st.none(), st.floats(1, 10)))
calls = st.builds(Call, st.uuids().map(str), lengths_s, st.booleans(), st.floats(0, 600), st.integers(0, 10**7), st.booleans())
clouds = st.builds(
    Cloud,
    st.one_of(st.floats(1, 90), st.floats(1, 600)),
    st.floats(10, 100),
    st.floats(1e6, 1e8),
    st.lists(calls, max_size=1).map(tuple),
    st.integers(0, 1),
    seldom,
)
budgets = st.builds(Budget, st.one_of(st.floats(0.2, 1), st.floats(0, 1)), st.floats(0.2, 25))
rules = st.builds(
    lambda target_s, containers: replace(RULES, target_wait_s=target_s, containers_max=containers),
    st.floats(30, 300),
    st.sampled_from([1, 2, 3, 1, 2, 3, 0]),
)
views = st.builds(View, st.just(1e6), queues, locals_, clouds, budgets, rules)
memories = st.builds(Memory, st.integers(1, 5), st.booleans(), st.sampled_from([None, 0.0, 1e6 - 10]), st.just(1e6 - 5), st.floats(0, 500))
few = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)  # moments are large to draw


def chosen(decision: Decision) -> list[str]:
    return [job_id for bundle in decision.bundles for job_id in bundle.job_ids]


@few
@given(views, memories)
def test_the_same_moment_gives_the_same_decision(view: View, memory: Memory) -> None:
    assert decide(view, memory) == decide(view, memory)


@few
@given(views, memories)
def test_what_is_reserved_stays_under_both_caps(view: View, memory: Memory) -> None:
    decision, _ = decide(view, memory)
    assert decision.dollars <= max(0.0, min(view.budget.today_dollars, view.budget.month_dollars)) + 1e-9


@few
@given(views, memories)
def test_there_are_never_more_containers_than_allowed(view: View, memory: Memory) -> None:
    on = len(containers_free_s(view.cloud))
    new = sum(bundle.needs_container for bundle in decide(view, memory)[0].bundles)
    assert new == 0 or on + new <= view.rules.containers_max
    assert decide(view, memory)[0].containers_wanted <= view.rules.containers_max


@few
@given(views, memories)
def test_what_must_stay_stays(view: View, memory: Memory) -> None:
    held = {job.id for job in view.pending if job.is_local_only or job.is_suspect}
    assert held.isdisjoint(chosen(decide(view, memory)[0]))


@few
@given(views, memories)
def test_jobs_leave_once_and_a_bundle_takes_the_oldest_first(view: View, memory: Memory) -> None:
    order, decision = [job.id for job in view.pending], decide(view, memory)[0]
    assert len(chosen(decision)) == len(set(chosen(decision)))
    for bundle in decision.bundles:
        places = [order.index(job_id) for job_id in bundle.job_ids]
        assert places == sorted(places)


@few
@given(views, memories)
def test_a_bundle_keeps_its_limits_unless_one_job_alone_is_larger(view: View, memory: Memory) -> None:
    audio_s = {job.id: job.audio_s for job in view.pending}
    for bundle in decide(view, memory)[0].bundles:
        together_s = sum(audio_s[job_id] for job_id in bundle.job_ids)
        assert 1 <= len(bundle.job_ids) <= view.rules.bundle_jobs_max
        assert together_s <= view.rules.bundle_audio_max_s or len(bundle.job_ids) == 1


@few
@given(views, memories)
def test_a_job_that_the_local_gpus_start_before_it_counts_as_late_is_never_taken(view: View, memory: Memory) -> None:
    """Start by start: those that leave before it do not stand in its way."""
    taken, queue = set(chosen(decide(view, memory)[0])), LocalStarts(view.local)
    for job in view.pending:
        place = queue.place(job)
        if job.id not in taken:
            queue.take(place)
        elif view.local.real_time_factor:
            assert job.age_s + place.start_s > due_s(view)


@few
@given(views)
def test_a_job_counts_as_late_at_the_target_or_where_a_cold_start_takes_most_of_it_somewhat_before(view: View) -> None:
    target_s = view.rules.target_wait_s
    assert 0.3 * target_s <= due_s(view) <= target_s
    assert due_s(view) == target_s or view.cloud.cold_start_s + margin_s(view) > target_s / 2


@few
@given(views, memories)
def test_nothing_is_taken_back_while_jobs_wait_here(view: View, memory: Memory) -> None:
    assert not view.pending or decide(view, memory)[0].take_back == ()


@few
@given(views, memories)
def test_without_jobs_and_calls_nothing_is_decided(view: View, memory: Memory) -> None:
    empty = replace(view, pending=(), cloud=replace(view.cloud, calls=(), is_breaker_open=False), budget=Budget(1.0, 1.0))
    assert decide(replace(empty, cloud=replace(empty.cloud, idle_containers=0)), memory)[0] == Decision()


@few
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), min_size=10, max_size=60))
def test_a_burst_never_begins_twice_within_a_minute(moments: Sequence[tuple[int, bool, bool]]) -> None:
    """However queue, calls and containers come and go between two looks."""
    memory, begun_s = Memory(), list[float]()
    for look, (waiting, has_call, is_idle) in enumerate(moments):
        now_s = look * RULES.poll_s
        pending = tuple(PendingJob(f"j{place}", 3600.0, 880.0) for place in range(waiting))
        cloud = Cloud(40.0, 30.0, 1e6, (Call("c", 600.0, has_started=True, since_s=19.0),) * has_call, int(is_idle))
        was_on = memory.is_on
        decision, memory = decide(View(now_s, pending, Local((), 15.0), cloud, Budget(1.0, 25.0), RULES), memory)
        if decision.bundles and not was_on:
            begun_s.append(now_s)
    assert all(later_s - sooner_s >= START_PAUSE_S for sooner_s, later_s in pairwise(begun_s))
