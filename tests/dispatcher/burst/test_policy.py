from dataclasses import replace

import pytest

from dispatcher.burst.policy import decide
from dispatcher.burst.price import reserve_dollars
from dispatcher.burst.view import Budget, Decision, Gpu, Local, Memory, RunningJob
from tests.dispatcher.burst.views import BUSY, CLOUD, HOUR_S, LOCAL, MINUTE_S, READY, RULES, VIEW, call, decided, job, overdue, sent, warm

HALF_HOUR_S = 30 * MINUTE_S


def test_an_empty_queue_needs_nothing() -> None:
    assert decided(VIEW) == Decision()


def test_jobs_that_the_local_gpus_start_within_the_target_stay() -> None:
    assert sent(replace(VIEW, local=Local((Gpu(),), 15.0), pending=overdue(3, audio_s=HALF_HOUR_S))) == []


def test_jobs_that_would_start_too_late_go_to_the_cloud_oldest_first() -> None:
    assert sent(replace(VIEW, pending=overdue(3, audio_s=HALF_HOUR_S))) == ["j0", "j1"]  # one for each container


def test_a_bundle_says_what_it_is_for_and_what_it_may_cost() -> None:
    [bundle] = decided(replace(VIEW, pending=overdue(1, audio_s=HOUR_S))).bundles
    assert bundle.why == "1 job: the first would start here in 960 s, in a new container in 40 s; $0.124 at most"
    assert bundle.reserve_dollars == pytest.approx(RULES.container_dollars_per_s * (40 + 2 * 120 + 30))


def test_a_container_that_would_be_early_is_waited_with() -> None:
    decision = decided(replace(VIEW, pending=(job("new", audio_s=HOUR_S, age_s=MINUTE_S),)))
    assert decision.bundles == ()
    assert decision.why == ("1 job would start too late here; a container is early enough in 780 s, and more jobs may share it by then",)
    assert decision.starts_in_s["new"] == pytest.approx(820)


def test_jobs_that_are_overdue_stay_as_far_as_the_box_starts_them_sooner_than_the_cloud_could() -> None:
    nearly_free = Local((Gpu((RunningJob(HOUR_S, 10.0),)),), 15.0, jobs_in_flight_max=1)
    pending = tuple(job(f"j{i}", audio_s=10 * MINUTE_S, age_s=HOUR_S) for i in range(9))
    assert sent(replace(VIEW, local=nearly_free, pending=pending)) == [
        "j2",
        "j3",
    ]  # they take 40 s each here: j1 would start in 41 s, j2 in 81 s


def test_too_little_work_brings_up_no_container() -> None:
    decision = decided(replace(VIEW, pending=overdue(1, audio_s=5 * MINUTE_S)))
    assert decision.bundles == ()
    assert decision.why == ("1 job would start too late here; too little work to bring up a container for",)


def test_a_warm_container_takes_what_a_cold_one_would_not_be_brought_up_for() -> None:
    view = replace(VIEW, pending=overdue(1, audio_s=5 * MINUTE_S), cloud=warm())
    [bundle] = decided(view).bundles
    assert not bundle.needs_container
    assert bundle.reserve_dollars < reserve_dollars(5 * MINUTE_S, CLOUD, RULES, needs_container=True)


def test_one_look_in_favour_is_not_enough() -> None:
    view = replace(VIEW, pending=overdue(1, audio_s=HOUR_S))
    first, memory = decide(view, Memory())
    second, _ = decide(view, memory)
    assert (len(first.bundles), len(second.bundles)) == (0, 1)


def test_a_second_look_is_not_waited_for_where_it_would_cost_a_job_its_target() -> None:
    view = replace(VIEW, pending=(job("hurries", audio_s=HOUR_S, age_s=14.5 * MINUTE_S - 12.0),))
    first, _ = decide(view, Memory())
    later, _ = decide(replace(view, pending=(replace(view.pending[0], age_s=14 * MINUTE_S),)), Memory())
    assert (len(first.bundles), len(later.bundles)) == (1, 0)


def test_those_that_can_still_be_in_time_leave_before_those_that_cannot() -> None:
    pending = (*overdue(2, audio_s=15 * MINUTE_S), *(job(f"s{i}", audio_s=15 * MINUTE_S, age_s=13.9 * MINUTE_S) for i in range(2)))
    assert sent(replace(VIEW, pending=pending)) == ["s0", "s1"]


def test_without_a_local_gpu_that_would_take_them_the_overdue_leave_first() -> None:
    pending = (*overdue(2, audio_s=15 * MINUTE_S), *(job(f"s{i}", audio_s=15 * MINUTE_S, age_s=13.9 * MINUTE_S) for i in range(2)))
    assert sent(replace(VIEW, pending=pending, local=replace(LOCAL, gpus=()))) == ["j0", "j1"]


def test_a_second_container_is_not_brought_up_for_as_few_as_may_be_late() -> None:
    pending = tuple(job(f"j{i}", audio_s=15 * MINUTE_S, age_s=13 * MINUTE_S) for i in range(3))
    view = replace(VIEW, pending=pending, cloud=replace(CLOUD, real_time_factor=8.0))
    many = replace(READY, looked_s=view.now_s, seen=500.0)
    assert decided(view, many).containers_wanted == 1
    assert decided(view, replace(many, late=5.0)).containers_wanted == 2


def test_where_a_cold_start_takes_most_of_the_target_a_container_comes_before_the_first_job_is_late() -> None:
    pending = tuple(job(f"j{i}", audio_s=10 * MINUTE_S, age_s=5.0) for i in range(6))
    nearly_free = Local((Gpu((RunningJob(HOUR_S, 10.0),)),), 15.0, jobs_in_flight_max=1)  # they start 1, 41, 81 s from now
    view = replace(
        VIEW, pending=pending, local=nearly_free, cloud=replace(CLOUD, cold_start_s=60.0), rules=replace(RULES, target_wait_s=88.0)
    )
    assert decided(view).starts_in_s["j1"] == pytest.approx(40.67, abs=0.1)
    assert "j2" in sent(view)  # it would start in 81 s, 86 s after it came


def test_what_comes_in_counts_as_work_for_a_container_that_would_come_up() -> None:
    flood = tuple(job(f"j{i:03}", audio_s=15.0, age_s=40.0 - 0.25 * i) for i in range(120))
    view = replace(VIEW, pending=flood, rules=replace(RULES, target_wait_s=60.0))
    old = replace(view, pending=tuple(replace(one, age_s=one.age_s + 61.0) for one in flood))
    assert sent(view)
    assert decided(old).why[0].endswith("too little work to bring up a container for")


def test_a_burst_that_ended_does_not_begin_again_within_a_minute() -> None:
    view = replace(VIEW, pending=overdue(1, audio_s=HOUR_S))
    assert sent(view, replace(READY, last_start_s=view.now_s - 59)) == []
    assert sent(view, replace(READY, last_start_s=view.now_s - 60)) == ["j0"]


def test_of_an_unknown_speed_only_what_has_waited_for_nearly_the_target_leaves_and_never_the_next_job_of_a_gpu() -> None:
    view = replace(VIEW, local=Local((BUSY,), None), pending=(*overdue(2, audio_s=HOUR_S), job("new", audio_s=HOUR_S)))
    assert sent(view) == ["j1"]
    assert set(decided(view).starts_in_s) == {"j1"}


def test_one_huge_file_goes_alone_when_it_is_too_late_for_it_here() -> None:
    pending = (job("huge", audio_s=5 * HOUR_S, age_s=14.5 * MINUTE_S), *overdue(1))
    assert [bundle.job_ids for bundle in decided(replace(VIEW, pending=pending)).bundles] == [("huge",), ("j0",)]


def test_a_huge_file_that_leaves_does_not_hold_up_those_behind_it() -> None:
    half_full = Local((Gpu((RunningJob(2 * HOUR_S, 2 * HOUR_S),)),), 15.0)
    pending = (job("huge", audio_s=5 * HOUR_S, age_s=14.5 * MINUTE_S), job("short", audio_s=10.0, age_s=14.5 * MINUTE_S))
    decision = decided(replace(VIEW, local=half_full, pending=pending))
    assert [bundle.job_ids for bundle in decision.bundles] == [("huge",)]
    assert decision.starts_in_s["short"] == 0.0


def test_a_flood_of_tiny_clips_leaves_in_full_bundles() -> None:
    bundles = decided(replace(VIEW, pending=overdue(500, audio_s=10.0))).bundles
    assert [len(bundle.job_ids) for bundle in bundles] == [64, 64]


def test_a_gpu_that_died_counts_for_nothing_and_one_that_lives_is_fed() -> None:
    two = replace(LOCAL, gpus=(Gpu(), Gpu()))
    pending = overdue(6, audio_s=HOUR_S)
    assert sent(replace(VIEW, local=two, pending=pending)) == []
    assert sent(replace(VIEW, local=replace(two, gpus=()), pending=pending)) == ["j0", "j1"]


def test_without_any_gpu_the_cloud_is_still_used_as_late_as_the_target_allows() -> None:
    view = replace(VIEW, local=replace(LOCAL, gpus=()), pending=(job("new", audio_s=HOUR_S),))
    assert sent(view) == []
    assert sent(replace(view, pending=(job("old", audio_s=HOUR_S, age_s=14.5 * MINUTE_S),))) == ["old"]


def test_a_cloud_that_starts_later_than_the_box_gets_nothing() -> None:
    slow = replace(CLOUD, cold_start_s=20 * MINUTE_S)
    assert sent(replace(VIEW, pending=overdue(4, audio_s=HOUR_S), cloud=slow)) == []


def test_a_cloud_that_runs_slower_than_promised_needs_a_second_container() -> None:
    pending = tuple(job(f"j{i}", audio_s=15 * MINUTE_S, age_s=13 * MINUTE_S) for i in range(3))
    view = replace(VIEW, pending=pending)
    assert decided(view).containers_wanted == 1
    assert decided(replace(view, cloud=replace(CLOUD, real_time_factor=8.0))).containers_wanted == 2


def test_a_slow_uplink_begins_sooner_and_keeps_here_what_would_arrive_too_late() -> None:
    pending = (job("long", audio_s=HOUR_S, age_s=10 * MINUTE_S, upload_bytes=60_000_000),)
    assert sent(replace(VIEW, pending=pending)) == []
    assert sent(replace(VIEW, pending=pending, cloud=replace(CLOUD, upload_bytes_per_s=250_000.0))) == ["long"]
    assert sent(replace(VIEW, pending=pending, cloud=replace(CLOUD, upload_bytes_per_s=50_000.0))) == []


@pytest.mark.parametrize("mark", ["is_local_only", "is_suspect"])
def test_what_must_not_leave_stays(mark: str) -> None:
    assert sent(replace(VIEW, pending=overdue(3, audio_s=HOUR_S, **{mark: True}))) == []


def test_an_open_breaker_keeps_everything_here() -> None:
    decision = decided(replace(VIEW, pending=overdue(3, audio_s=HOUR_S), cloud=replace(CLOUD, is_breaker_open=True)))
    assert decision.bundles == ()
    assert decision.why == ("Modal has failed too often lately: everything waits for the local GPUs until it has been tried again",)


def test_a_modal_that_may_be_well_again_gets_one_call_and_one_container() -> None:
    view = replace(VIEW, pending=overdue(9, audio_s=HOUR_S / 4), rules=replace(VIEW.rules, containers_max=4))
    assert len(decided(view).bundles) > 1
    tried = decided(replace(view, cloud=replace(CLOUD, is_tried=True)))
    assert (len(tried.bundles), tried.containers_wanted) == (1, 1)


@pytest.mark.parametrize("budget", [Budget(0.02, 25.0), Budget(1.0, 0.0), Budget(-0.1, 1.0)])
def test_money_that_is_spent_keeps_everything_here(budget: Budget) -> None:
    decision = decided(replace(VIEW, pending=overdue(3, audio_s=HOUR_S), budget=budget))
    assert decision.bundles == ()
    assert "too little for the shortest of the jobs" in decision.why[0]


def test_the_last_money_buys_as_many_of_the_oldest_jobs_as_it_is_enough_for() -> None:
    pending = (*overdue(1, audio_s=HOUR_S), *(job(f"s{i}", audio_s=7 * MINUTE_S, age_s=14.5 * MINUTE_S) for i in range(2)))
    decision = decided(replace(VIEW, pending=pending, cloud=warm(), budget=Budget(0.03, 25.0)))
    assert [bundle.job_ids for bundle in decision.bundles] == [("s0",)]
    assert decision.why == ("j0 will be late here, but might cost more than the $0.03 that are left",)


def test_a_container_gets_its_next_call_when_it_is_nearly_free_and_not_before() -> None:
    pending = overdue(1)
    assert sent(replace(VIEW, pending=pending, cloud=replace(CLOUD, calls=(call("c", has_started=True, since_s=5),)))) == []
    assert sent(replace(VIEW, pending=pending, cloud=replace(CLOUD, calls=(call("c", has_started=True, since_s=19),)))) == ["j0"]


def test_a_container_is_wanted_for_as_long_as_a_call_waits_for_it() -> None:
    assert decided(replace(VIEW, cloud=replace(CLOUD, calls=(call("c"),)))).containers_wanted == 1


def test_a_call_that_has_not_started_is_taken_back_for_a_gpu_that_would_be_idle() -> None:
    view = replace(VIEW, local=Local((Gpu((RunningJob(60.0, 30.0),)),), 15.0), cloud=replace(CLOUD, calls=(call("c"),)))
    assert [back.call_id for back in decided(view).take_back] == ["c"]


@pytest.mark.parametrize("one", [call("running", has_started=True), call("nearly there", since_s=35.0)])
def test_a_call_that_runs_or_is_about_to_is_left_where_it_is(one: object) -> None:
    view = replace(VIEW, local=Local((Gpu(),), 15.0), cloud=replace(CLOUD, calls=(one,)))  # type: ignore[arg-type]
    assert decided(view).take_back == ()
