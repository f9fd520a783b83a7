"""Every process replaced by a new one under load: nothing is lost, nothing runs twice to a visible effect, nobody pays for it."""

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from client.errors import ServiceAway
from client.models import Job
from core.figures import Figures
from core.redis_steps import connect
from tests.conftest import wait_for
from tests.scripted import ScriptedStack

JOBS = 60
ROUNDS = 2


def test_replacing_every_process_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    with ScriptedStack(tmp_path, {"SPILLWAY_STOP_GRACE_S": "3", "SPILLWAY_MAX_JOBS_IN_FLIGHT": "8"}, workers=2) as scripted:
        sent: list[Job] = []
        sending = threading.Thread(target=lambda: [sent.append(_submitted(scripted, number)) for number in range(JOBS)])
        sending.start()
        wait_for(lambda: len(sent) > JOBS // 3, "load", timeout_s=60)
        for _ in range(ROUNDS):
            for name in ("worker", "service", "dispatcher", "worker-2"):
                _replace(scripted, name)
        sending.join()
        ended = [_asked(lambda job=job: scripted.client.wait(job.id)) for job in sent]
        with connect(scripted.stack.redis_url) as redis:
            totals = Figures(redis).snapshot().totals
        assert {(job.state, job.losses) for job in ended} == {("succeeded", 0)}
        assert len({job.id for job in ended}) == JOBS
        assert sum(job.attempt for job in ended) == JOBS + totals.get("handbacks", 0)
        assert (totals["succeeded"], totals.get("lost_runners", 0)) == (JOBS, 0)
        last = Counter(line["job"] for line in scripted.noted() if (line["stage"], line["event"]) == ("alignment", "end"))
        assert last == Counter(job.id for job in ended), "a job's last stage ended more than once"
        print(f"{JOBS} jobs, {4 * ROUNDS} processes replaced, {totals.get('handbacks', 0)} hand-backs")  # noqa: T201


def _submitted(scripted: ScriptedStack, number: int) -> Job:
    """With the same key until it is answered, as a client does whose service is away."""
    return _asked(lambda: scripted.submit({"seconds": 0.5 if number % 3 else 6.0}, idempotency_key=f"job-{number}"))


def _asked(ask: Any) -> Any:
    for _ in range(200):
        try:
            return ask()
        except ServiceAway:
            time.sleep(0.1)
    raise AssertionError("the service did not come back")


def _replace(scripted: ScriptedStack, name: str) -> None:
    pid = scripted.stack.pid(name)
    assert pid
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: scripted.stack.pid(name) not in (None, pid), f"a new {name}", timeout_s=40)
