from dataclasses import replace
from math import inf

import pytest

from dispatcher.burst.policy import decide
from tools.simulator import traces
from tools.simulator.optimum import floor
from tools.simulator.rivals import at_submit, by_queue_length
from tools.simulator.scene import Arrival, Caps, Trace, rules
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
    times_s = [one.at_s for one in make().arrivals]  # type: ignore[operator]
    assert times_s == sorted(times_s)


def test_the_table_has_a_line_for_every_policy() -> None:
    assert markdown(rows(LUNCH, 900.0, Caps()), Caps()).count("| lunch |") == 4
