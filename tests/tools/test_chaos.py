"""The chaos run in short, and that its proof would see what must not be."""

import re
import subprocess
import sys
from collections.abc import Iterator
from random import Random

import pytest

from tests.conftest import ROOT
from tests.scripted import ScriptedStack
from tools.chaos.callbacks import Receiver
from tools.chaos.crowd import Seen
from tools.chaos.journal import read_journal
from tools.chaos.orders import POISON, Order, draw_orders
from tools.chaos.proof import Findings, prove


def test_everything_breaks_at_once_and_nobody_is_failed() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tools.chaos", "--short", "--seed", "3"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    last = run.stdout.splitlines()[-1]
    assert re.fullmatch(r"chaos: 60 jobs, [1-9]\d* kills, [1-9]\d* redis restarts: 0 lost, 0 duplicated, 0 stuck", last)


def test_the_same_seed_draws_the_same_orders_and_every_kind_of_poison() -> None:
    orders = draw_orders(Random(1), 60, real=2, poison=5)
    assert orders == draw_orders(Random(1), 60, real=2, poison=5)
    assert {order.script["then"] for order in orders if order.error and order.script} == set(POISON)
    assert sum(order.script is None for order in orders) == 2


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedStack]:
    with ScriptedStack(tmp_path_factory.mktemp("chaos")) as running:
        yield running


def proof(scripted: ScriptedStack, order: Order, seen: Seen, receiver: Receiver) -> Findings:
    return prove(scripted.client, seen, [order], receiver, read_journal(scripted.journal), max_losses=3)


def clean(scripted: ScriptedStack) -> None:
    for job in scripted.client.jobs().jobs:
        scripted.client.delete(job.id)


def test_the_proof_sees_what_must_not_be(scripted: ScriptedStack) -> None:
    receiver, order = Receiver(1), Order(0, {"seconds": 0.0})
    job = scripted.client.wait(scripted.submit({"seconds": 0.0}).id)
    assert proof(scripted, order, Seen(answers={0: [job.id]}), receiver) == Findings()

    gone = Seen(answers={0: [job.id, "0" * 32]})
    assert len(proof(scripted, order, gone, receiver).lost) == 1
    assert len(proof(scripted, order, gone, receiver).duplicated) == 1
    assert proof(scripted, order, Seen(), receiver).duplicated == [f"{job.id} was never acknowledged to anybody"]
    assert proof(scripted, order, Seen(answers={0: [job.id]}, texts={job.id: "another"}), receiver).duplicated
    assert proof(scripted, order, Seen(answers={0: [job.id]}, ends={job.id: "failed"}), receiver).duplicated
    assert proof(scripted, Order(0, {}, error="worker_lost"), Seen(answers={0: [job.id]}), receiver).wrong
    assert proof(scripted, Order(0, {}, wants_callback=True), Seen(answers={0: [job.id]}), receiver).lost
    receiver.taken[job.id] = ["one", "two"]
    assert proof(scripted, Order(0, {}, wants_callback=True), Seen(answers={0: [job.id]}), receiver).lost
    scripted.journal.write_text("")
    assert proof(scripted, order, Seen(answers={0: [job.id]}), Receiver(1)).duplicated
    clean(scripted)


def test_the_proof_sees_a_job_that_is_stuck(scripted: ScriptedStack) -> None:
    job = scripted.submit({"seconds": 5.0})
    found = proof(scripted, Order(0, {"seconds": 5.0}), Seen(answers={0: [job.id]}), Receiver(1))
    assert len(found.stuck) == 1
    clean(scripted)
