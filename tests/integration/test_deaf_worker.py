"""A worker that is alive, reports itself fit, and hears nothing any more."""

import os
import sys
from pathlib import Path

from tests.conftest import ROOT
from tests.integration.deaf_worker import DEAFEN
from tests.scripted import ScriptedStack
from tools.supervisor import Program


def test_a_worker_that_hears_no_wake_ups_ends_and_its_successor_takes_the_job(tmp_path: Path) -> None:
    program = Program("worker", (sys.executable, "-m", "tests.integration.deaf_worker", tmp_path / "journal"), ROOT)
    with ScriptedStack(tmp_path, launched=lambda usual: program if usual.name == "worker" else usual) as scripted:
        assert scripted.client.wait(scripted.submit().id).attempt == 1
        deaf = scripted.stack.pid("worker")
        assert deaf is not None
        os.kill(deaf, DEAFEN)
        done = scripted.client.wait(scripted.submit().id)
        assert (done.state, done.attempt, done.losses) == ("succeeded", 1, 0)
        assert scripted.stack.pid("worker") != deaf
        assert "did not hear their wake-ups" in (scripted.stack.log_dir / "worker.log").read_text()
