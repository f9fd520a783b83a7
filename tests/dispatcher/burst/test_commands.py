"""`python -m dispatcher.burst plan | setup | check`, as somebody at the box types them."""

import hashlib
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from core.burst import BundleJob, Outcome, Receipt, Reply, mismatch
from core.bursts import BurstOutlook
from core.worker_reports import WorkerReport
from dispatcher.burst.__main__ import main
from tests import gcs_server
from tests.dispatcher.burst.box import RESERVE_USD, BurstBox, ended, runs_here, stored
from tests.gcs_server import CloudServer
from tests.modal_server import Conduct, worker_lost

A10_PER_S = 0.000306 + 4 * 0.0000131 + 16 * 0.00000222


@pytest.fixture
def typed(box: BurstBox, redis_url: str, ffmpeg: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """Types a command: its exit status, what it prints, what it complains of."""
    here = {
        "SPILLWAY_REDIS_URL": redis_url, "SPILLWAY_FFMPEG": ffmpeg, "SPILLWAY_FILE_STORE_DIR": str(tmp_path / "files"),
        "SPILLWAY_MODAL_TOKEN_ID": "ak-test", "SPILLWAY_MODAL_TOKEN_SECRET": "as-test", "SPILLWAY_LOG_LEVEL": "error",
    }  # fmt: skip
    for name, value in here.items():
        monkeypatch.setenv(name, value)
    box.own_stacks = set()

    def type_in(command: str, **settings: str) -> tuple[int, str, str]:
        with monkeypatch.context() as more:
            for name, value in settings.items():
                more.setenv(f"SPILLWAY_{name.upper()}", value)
            status = main([command])
        said = capsys.readouterr()
        return status, said.out, said.err

    return type_in


def test_plan_says_what_would_go_what_it_may_cost_and_why(box: BurstBox, typed: Any) -> None:
    box.bursts.measure(cold_start_s=10.0, real_time_factor=10.0)
    for _ in range(3):
        box.box.submit(duration_s=600)
    status, said, _ = typed("plan", target_wait_s="0", modal_scaledown_s="2")
    assert status == 0
    assert "bursts are off (SPILLWAY_BURST=true switches them on); target wait 0 s" in said
    assert "queue: 3 jobs, 1800 s of audio" in said
    assert "here: 0 fit workers, speed not measured yet" in said
    assert "Modal: cold start 10 s, 10.0x real time, 0 calls under way" in said
    assert "money: $1.00 left today, $25.00 this month" in said
    assert re.search(r"^burst: 1 jobs?, 600 s of audio, up to \$0\.\d{4}: 1 job: the first would start here", said, re.MULTILINE)
    assert box.bursts.under_way() == ()


def test_plan_of_an_empty_queue_and_of_a_late_one(box: BurstBox, typed: Any) -> None:
    assert typed("plan")[1].endswith("nothing would be burst now\n")
    box.box.submit(duration_s=60)
    said = typed("plan")[1]
    assert "a container is early enough in" in said or "too little work" in said


def test_plan_says_what_never_leaves(box: BurstBox, typed: Any) -> None:
    box.box.submit(duration_s=1800)
    box.box.submit(duration_s=10, local_only=True)
    said = typed("plan", target_wait_s="0", modal_timeout_s="60")[1]
    assert "queue: 2 jobs, 1810 s of audio; 2 of them never leave: local_only, tried before, or too long for one call" in said
    assert said.endswith("nothing would be burst now\n")


def test_plan_counts_what_the_dispatcher_has_under_way(box: BurstBox, typed: Any) -> None:
    box.server.conducts = [Conduct(ends=threading.Event())]
    box.begin(box.box.submit())
    said = typed("plan")[1]
    assert "1 calls under way" in said
    assert f"money: ${1 - RESERVE_USD:.2f} left today" in said
    assert len(box.bursts.under_way()) == 1


def test_plan_says_that_the_dispatcher_waits_and_why(box: BurstBox, typed: Any) -> None:
    box.bursts.tell(BurstOutlook(is_paused=True, reason="Modal refuses the token: make a new one", why=()), ttl_s=60)
    assert "the dispatcher waits with the next try: Modal refuses the token: make a new one" in typed("plan")[1]


def test_plan_says_what_would_be_taken_back(box: BurstBox, typed: Any) -> None:
    box.bursts.measure(cold_start_s=600.0)
    box.server.conducts = [Conduct(starts=threading.Event())]
    flight = box.begin(box.box.submit())
    box.call_kept()
    box.store.report_worker(WorkerReport("gpu0", True, "", "cuda", "large-v2"), ttl_s=60)
    runs_here(box, box.box.submit())
    said = typed("plan")[1]
    assert f"take back: {flight.burst.id}: a local GPU is about to have nothing to do" in said
    assert not any(call.is_cancelled.is_set() for call in box.server.calls.values())


def test_check_sends_ten_seconds_and_keeps_the_cold_start_and_the_cost(box: BurstBox, typed: Any) -> None:
    status, said, complaint = typed("check")
    assert (status, complaint) == (0, "")
    assert re.search(r"^sent 10 s of audio as fc-1; waiting$", said, re.MULTILINE)
    found = re.search(r"^NVIDIA A10G: cold start (\d+\.\d) s, 10 s of audio in 3\.0 s, \$(0\.\d{4})$", said, re.MULTILINE)
    assert found, said
    (sent,) = box.heard
    assert (sent.jobs[0].duration_s, sent.deadline_s) == (10, 180)
    assert box.bursts.measured()["cold_start_s"] == pytest.approx(float(found[1]), abs=0.06)
    day = box.ledger()
    assert day.spent_usd == pytest.approx(float(found[2]), abs=6e-5)
    assert (day.calls, day.reserved_usd) == (1, 0)
    assert day.spent_usd == pytest.approx(A10_PER_S * (20 + 3 + 30), rel=0.1)


def test_check_of_a_warm_container_measures_no_cold_start(box: BurstBox, typed: Any) -> None:
    box.container = box.container.model_copy(update={"bundles_before": 2})
    status, said, _ = typed("check")
    assert (status, "it was warm" in said, box.bursts.measured()) == (0, True, {})


def test_check_goes_by_the_bucket_and_leaves_nothing_there(bucket_box: BurstBox, typed: Any) -> None:
    box, found = bucket_box, list[bytes]()

    def read(job: BundleJob) -> Receipt:
        found.append(box.box.files.read(job.input_key))
        assert hashlib.sha256(found[0]).hexdigest() == job.input_sha256
        return stored(box, job)

    box.says = read
    status, _, complaint = typed("check", file_store=str(box.bucket))
    assert (status, complaint, found[0][:4], box.heard[0].file_store) == (0, "", b"fLaC", box.bucket)
    assert list(box.box.files.listed("jobs")) == []


def test_check_says_that_the_container_does_not_reach_the_bucket(bucket_box: BurstBox, typed: Any) -> None:
    bucket_box.says = ended(Outcome.RETURNED, "storage_unavailable")
    status, _, complaint = typed("check", file_store=str(bucket_box.bucket))
    assert (status, "it is storage_unavailable" in complaint) == (1, True)
    assert list(bucket_box.box.files.listed("jobs")) == []


def test_check_says_that_this_box_does_not_reach_the_bucket(bucket_box: BurstBox, typed: Any, cloud: CloudServer) -> None:
    cloud.faults = [gcs_server.Fault("POST /upload", 99, gcs_server.Reply(403, {}, b"no"))]
    status, _, complaint = typed("check", file_store=str(bucket_box.bucket))
    assert (status, bucket_box.server.calls, complaint.startswith("burst check: ")) == (1, {}, True)
    assert "the sample stays in the bucket" not in complaint
    cloud.faults = []


def not_deployed(box: BurstBox) -> None:
    box.server.is_deployed = False


def lost(box: BurstBox) -> None:
    box.server.conducts = [Conduct(ending=worker_lost())]


def of_another_release(box: BurstBox) -> None:
    box.server.remote = lambda _: Reply(refusal=mismatch("the deployment is older")).plain()


def broken(box: BurstBox) -> None:
    box.says = ended(Outcome.BROKE, "engine_failed")


def silent_about_it(box: BurstBox) -> None:
    box.server.remote = lambda _: Reply(container=box.container, seconds=3).plain()


@pytest.mark.parametrize(
    ("fault", "said", "is_paid"),
    [
        (not_deployed, "modal deploy modal_deploy.py", False), (lost, "the container on Modal was lost", True),
        (of_another_release, "modal deploy modal_deploy.py", True), (broken, "the container says: it is engine_failed", True),
        (silent_about_it, "the container says: nothing of the sample", True),
    ],
)  # fmt: skip
def test_check_says_what_is_wrong_and_posts_what_it_cost(box: BurstBox, typed: Any, fault: Any, said: str, is_paid: bool) -> None:
    fault(box)
    status, _, complaint = typed("check")
    assert (status, said in complaint) == (1, True), complaint
    days = box.bursts.ledger(box.bursts.today()[:7])
    assert bool(days) == is_paid
    assert all(day.spent_usd > A10_PER_S * 30 for day in days if fault is not lost), "the container idles until it is let go"


def test_a_wrong_token_is_said_and_costs_nothing(box: BurstBox, typed: Any) -> None:
    status, _, complaint = typed("check", modal_token_secret="as-wrong")
    assert (status, "Modal refuses the token" in complaint, box.server.calls) == (1, True, {})


def test_no_token_is_said(typed: Any) -> None:
    status, _, complaint = typed("setup", modal_token_id="")
    assert status == 1
    assert "SPILLWAY_MODAL_TOKEN_ID and SPILLWAY_MODAL_TOKEN_SECRET" in complaint


@pytest.mark.parametrize(("gone_usd", "scaledown_s"), [(0.99, "30"), (0.5, "1200")], ids=["spent", "a container that idles for long"])
def test_check_over_the_cap_sends_nothing(box: BurstBox, typed: Any, gone_usd: float, scaledown_s: str) -> None:
    box.bursts.post(gone_usd)
    status, _, complaint = typed("check", modal_scaledown_s=scaledown_s)
    assert (status, box.server.calls) == (1, {})
    assert re.search(rf"it may cost \$0\.\d\d, beyond a cap: \${gone_usd:.2f} of the day", complaint)
    assert "of SPILLWAY_BURST_DAY_USD=1.00 and SPILLWAY_BURST_MONTH_USD=25.00" in complaint


def test_check_gives_up_cancels_and_posts(box: BurstBox, typed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    box.server.conducts = [Conduct(ends=threading.Event())]
    ticks = iter(range(0, 10_000_000, 400))  # every look at the clock is minutes later
    monkeypatch.setattr("dispatcher.burst.__main__.time", _Clock(lambda: float(next(ticks))))
    status, _, complaint = typed("check")
    (call,) = box.server.calls.values()
    assert (status, call.terminates_containers, "the call is cancelled" in complaint) == (1, True, True)
    assert box.ledger().spent_usd > 0


class _Clock:
    def __init__(self, monotonic: Any) -> None:
        self.monotonic, self.sleep = monotonic, lambda _: time.sleep(0.01)


def test_setup_has_the_models_brought_and_says_what_comes_next(box: BurstBox, typed: Any) -> None:
    box.server.remote = lambda _: {"said": ["large-v2: 3.1 GB"], "error": None}
    status, said, _ = typed("setup")
    assert status == 0
    assert said.splitlines()[1:] == ["large-v2: 3.1 GB", "the models are on Modal; next: python -m dispatcher.burst check"]


def test_setup_that_fails_says_why(box: BurstBox, typed: Any) -> None:
    box.server.remote = lambda _: {"said": [], "error": "the hub does not answer"}
    status, _, complaint = typed("setup")
    assert (status, complaint) == (1, "burst setup: the hub does not answer\n")


def test_setup_that_needs_a_token_says_how_it_comes_to_modal(box: BurstBox, typed: Any) -> None:
    box.server.remote = lambda _: {"said": [], "error": "it is gated: set SPILLWAY_HF_TOKEN"}
    assert "set SPILLWAY_HF_TOKEN (on Modal by a Secret that SPILLWAY_MODAL_HF_SECRET names; then deploy again)" in typed("setup")[2]
    assert "on Modal by a Secret" not in typed("setup", modal_hf_secret="hub")[2]


def test_setup_by_a_function_that_is_not_ours_says_so(box: BurstBox, typed: Any) -> None:
    box.server.remote = lambda _: None
    assert typed("setup")[2] == "burst setup: the call on Modal broke (TypeError): Modal's dashboard shows its logs\n"


@pytest.mark.parametrize(
    ("lock", "models", "said"),
    [
        ("1", "8", "the models on Modal are not this box's: .*one with SPILLWAY_HF_TOKEN needs SPILLWAY_MODAL_HF_SECRET"),
        ("9", "2", "the packages on Modal are not this box's: .*one with another torch needs SPILLWAY_MODAL_IMAGE"),
    ],
)
def test_check_shows_that_the_box_has_another_stack(box: BurstBox, typed: Any, lock: str, models: str, said: str) -> None:
    report = WorkerReport("gpu0", True, "", "cuda", "large-v2", lock_sha256=lock * 64, models_sha256=models * 64)
    box.store.report_worker(report, ttl_s=60)
    status, _, complaint = typed("check")
    assert status == 1
    assert re.search(said, complaint)
    assert "run `modal deploy modal_deploy.py`, then `python -m dispatcher.burst setup`" in complaint
