"""The real dispatcher, as processes: stopped, frozen, two at once, while Modal's own client has a call under way."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from core.job import Job, JobState
from tests.conftest import ROOT, wait_for
from tests.dispatcher.burst.box import BurstBox, state
from tests.dispatcher.process import running_dispatcher
from tests.modal_server import Conduct
from tests.modal_wire import Fault

Dispatchers = Callable[[], AbstractContextManager["Popen[bytes]"]]


@pytest.fixture
def dispatchers(redis_url: str, tmp_path: Path, ffmpeg: str) -> Dispatchers:
    """Starts one; it brings home what it finds."""
    token = {"SPILLWAY_MODAL_TOKEN_ID": "ak-test", "SPILLWAY_MODAL_TOKEN_SECRET": "as-test"}
    return partial(running_dispatcher, redis_url, tmp_path / "files", ffmpeg, **token)


def under_way(box: BurstBox, ends: threading.Event) -> Job:
    """In a call that an earlier dispatcher made."""
    job = box.box.submit()
    box.server.conducts = [Conduct(ends=ends)]
    box.begin(job)
    box.call_kept()
    box.bridge.close()
    return job


def is_asked(box: BurstBox) -> None:
    box.server.heard.clear()
    wait_for(lambda: "FunctionGetOutputs" in box.server.heard, "Modal to be asked for the call")


def test_it_stops_in_time_though_modal_is_silent(box: BurstBox, dispatchers: Dispatchers) -> None:
    job = under_way(box, threading.Event())
    box.server.faults = [Fault("FunctionGetOutputs", is_silent=True, times=100)]
    with dispatchers() as process:
        is_asked(box)
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        assert time.monotonic() - begun < 12  # Docker gives it 15 s
    assert state(box, job) == (JobState.RUNNING, 1, 0, 0)


def test_a_leader_that_was_frozen_finds_its_call_brought_home(box: BurstBox, dispatchers: Dispatchers, tmp_path: Path) -> None:
    job = under_way(box, ends := threading.Event())
    log = (tmp_path / "files").with_suffix(".log")
    with dispatchers() as leader:
        is_asked(box)
        leader.send_signal(signal.SIGSTOP)
        with dispatchers():
            is_asked(box)
            ends.set()
            wait_for(lambda: not box.bursts.under_way(), "the second one to bring it home")
            leader.send_signal(signal.SIGCONT)
        wait_for(lambda: log.read_text().count("burst ended") == 2, "the first one to lead again, and to end its own")
        assert state(box, job) == (JobState.SUCCEEDED, 1, 0, 0)
        assert (box.ledger().calls, box.ledger().jobs, box.ledger().reserved_usd) == (1, 1, 0)
        assert box.files_of(job) == ["input", "transcript-1.json"]
        assert leader.poll() is None


def test_a_check_that_is_stopped_ends_its_call_and_posts_what_it_cost(box: BurstBox, redis_url: str, ffmpeg: str) -> None:
    box.server.conducts = [Conduct(ends=threading.Event())]
    here = {"SPILLWAY_REDIS_URL": redis_url, "SPILLWAY_FFMPEG": ffmpeg, "SPILLWAY_FILE_STORE_DIR": str(box.folder)}
    token = {"SPILLWAY_MODAL_TOKEN_ID": "ak-test", "SPILLWAY_MODAL_TOKEN_SECRET": "as-test"}
    command = [sys.executable, "-m", "dispatcher.burst", "check"]
    with Popen(command, cwd=ROOT, env=os.environ | here | token, stdout=PIPE, stderr=PIPE, text=True) as check:
        assert check.stdout is not None
        assert check.stdout.readline() == "sent 10 s of audio as fc-1; waiting\n"
        check.terminate()
        _, complaint = check.communicate(timeout=30)
    assert (check.returncode, box.server.calls["fc-1"].terminates_containers) == (1, True)
    assert "the call is cancelled" in complaint
    assert "Traceback" not in complaint
    assert box.ledger().spent_usd > 0
