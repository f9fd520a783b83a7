from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from dispatcher.burst.policy import decide
from tools.simulator import traces
from tools.simulator.clairvoyant import judged, search
from tools.simulator.optimum import floor
from tools.simulator.rivals import at_submit, by_queue_length
from tools.simulator.scene import Arrival, Caps, LocalBox, Trace, rules
from tools.simulator.schedule import Run
from tools.simulator.schedules import keep, kept
from tools.simulator.table import NOTHING_DOLLARS, markdown, rows
from tools.simulator.world import Policy, World

LUNCH = Trace("lunch", tuple(Arrival(30.0 * i, 1200.0) for i in range(60)))  # half an hour at 2.7 times what the box gets through
POLICIES = [decide, at_submit, by_queue_length]


def test_a_simulation_is_the_same_every_time() -> None:
    assert World(LUNCH, decide, rules(300), Caps()).run() == World(LUNCH, decide, rules(300), Caps()).run()


def test_without_a_policy_the_box_does_everything_and_nothing_is_paid() -> None:
    found = World(LUNCH, None, rules(300), Caps()).run()
    assert (found.dollars, max(found.waits_s) < inf) == (0.0, True)
    assert found.busy_s == pytest.approx(60 * 1201 / 15)


@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_spends_more_than_the_cap(policy: Policy) -> None:
    assert World(LUNCH, policy, rules(60), Caps(day_dollars=0.2)).run().dollars <= 0.2


def test_ours_keeps_the_target_where_the_box_alone_does_not() -> None:
    waits_s = {policy: sorted(World(LUNCH, policy, rules(900), Caps()).run().waits_s)[56] for policy in (None, decide)}
    assert waits_s[None] > 900 >= waits_s[decide]


@pytest.mark.parametrize("target_s", [300.0, 900.0])
def test_the_floor_lies_under_whatever_keeps_the_target(target_s: float) -> None:
    least = floor(LUNCH, rules(target_s))
    assert least.dollars <= least.strict_dollars
    for row in rows(LUNCH, target_s, Caps(day_dollars=10.0)):
        assert row.p95_wait_s > target_s or row.dollars >= least.dollars


def test_a_box_that_keeps_up_has_a_floor_of_nothing() -> None:
    assert floor(replace(LUNCH, arrivals=LUNCH.arrivals[::4]), rules(300)).dollars < NOTHING_DOLLARS


def test_what_no_number_of_dollars_buys_has_no_floor() -> None:
    flood = replace(LUNCH, arrivals=tuple(Arrival(20.0 * i, 3600.0) for i in range(40)))
    assert floor(flood, rules(60)).dollars == inf


def test_an_outage_costs_no_job() -> None:
    away = replace(LUNCH, modal=replace(LUNCH.modal, outages=((600.0, 1500.0),)))
    assert max(World(away, decide, rules(300), Caps()).run().waits_s) < inf


@pytest.mark.parametrize("make", traces.ALL)
def test_every_trace_comes_in_order(make: object) -> None:
    times_s = [one.at_s for one in make(1).arrivals]  # type: ignore[operator]
    assert times_s == sorted(times_s)


def test_no_seed_that_is_reported_was_tuned_on() -> None:
    assert not set(traces.HELD_OUT) & set(traces.TUNED_ON)


def test_what_a_clairvoyant_finds_keeps_the_target_and_lies_between_the_floor_and_a_plain_schedule() -> None:
    plain = judged(LUNCH, (Run(0.0, 60_000.0),), rules(300))
    found = search(LUNCH, rules(300), 10, [plain.schedule])
    assert plain.late == found.late == 0
    assert floor(LUNCH, rules(300)).dollars <= found.dollars <= plain.dollars


def test_a_schedule_that_starts_nothing_is_the_box_alone() -> None:
    alone = World(LUNCH, None, rules(300), Caps()).run()
    assert judged(LUNCH, (), rules(300)).outcome == alone


def test_a_schedule_that_was_kept_is_read_back(tmp_path: Path) -> None:
    file, schedule = tmp_path / "schedules.json", (Run(1.0, 900.0), Run(2.5, 60.0, 600.0, 30.0))
    keep([(LUNCH, 300.0, schedule)], file)
    assert kept(LUNCH, 300.0, file) == (schedule,)
    assert kept(LUNCH, 60.0, file) == ()


def test_a_gpu_that_dies_gives_its_jobs_back_and_none_is_lost() -> None:
    box = LocalBox(gpus=2, away=((600.0, 3000.0),))
    both = World(replace(LUNCH, box=replace(box, away=())), None, rules(300), Caps()).run()
    one = World(replace(LUNCH, box=box), None, rules(300), Caps()).run()
    assert max(one.waits_s) < inf
    assert max(one.waits_s) > max(both.waits_s)


def test_all_gpus_may_be_dead_and_the_cloud_does_what_they_would() -> None:
    dead = replace(LUNCH, box=LocalBox(away=((0.0, 40_000.0),)))
    found = World(dead, decide, rules(900), Caps(day_dollars=10.0)).run()
    assert sorted(found.waits_s)[56] <= 900


def test_the_table_has_a_line_for_every_policy() -> None:
    assert markdown(rows(LUNCH, 900.0, Caps()), Caps()).count("| lunch |") == 4
