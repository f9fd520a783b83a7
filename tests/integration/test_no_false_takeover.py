"""Nobody is declared dead who lives. Times are a third of the default ones: lease 20 s, heartbeat 5 s."""

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.scripted import ScriptedStack


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedStack]:
    settings = {"SPILLWAY_LEASE_S": "20", "SPILLWAY_HEARTBEAT_S": "5"}
    with ScriptedStack(tmp_path_factory.mktemp("takeover"), settings) as running:
        yield running


def test_a_library_that_holds_the_gil_for_a_third_of_the_lease_loses_nothing(scripted: ScriptedStack) -> None:
    jobs = [scripted.submit({"hold_s": 7.0}), scripted.submit({"seconds": 1.0})]
    ended = [scripted.client.wait(job.id) for job in jobs]
    assert [(job.state, job.attempt, job.losses) for job in ended] == [("succeeded", 1, 0)] * 2


def test_a_paused_redis_costs_no_attempt(scripted: ScriptedStack) -> None:
    job = scripted.submit({"seconds": 2.0})
    scripted.holder(job)
    redis = scripted.stack.pid("redis")
    assert redis
    os.kill(redis, signal.SIGSTOP)
    time.sleep(10)
    os.kill(redis, signal.SIGCONT)
    done = scripted.client.wait(job.id)
    assert (done.state, done.attempt, done.losses) == ("succeeded", 1, 0)
