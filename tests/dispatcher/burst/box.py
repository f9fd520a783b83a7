"""The bridge as the dispatcher builds it, a Modal of our own on loopback, and a container that says what a test wants."""

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.burst import Bundle, BundleJob, Container, Outcome, Receipt, Reply, Stack
from core.bursts import Bursts, Caps, DayOfLedger
from core.file_store import claim_key, product_key, result_key
from core.job import Job, JobFailure, JobState, Stage
from core.job_store import Runner
from core.transcript import Models, Run, Transcript
from dispatcher.burst.bridge import SLOT, Bridge, Limits
from dispatcher.burst.calls import ModalCalls, Place
from dispatcher.burst.cargo import Cargo
from dispatcher.burst.flight import Flight, Pilot
from dispatcher.burst.gauges import Gauges
from dispatcher.burst.settling import Money
from tests.conftest import files_in, wait_for
from tests.core.recorded import Recorded
from tests.modal_server import Call, ModalServer
from tests.worker.box import Box

LEASE_S = 60.0
RESERVE_USD = 0.05
DOLLARS_PER_S = 0.001
SCALEDOWN_S = 30.0
LOCAL = Runner("gpu0", "boot")
LONGEST_CALL_S = 700.0
COLD_START_S, SECONDS = 20.0, 3.0
WHOLE_USD = DOLLARS_PER_S * (COLD_START_S + SECONDS + SCALEDOWN_S)
STACK = Stack(lock_sha256="1" * 64, models_sha256="2" * 64)
Says = Callable[[BundleJob], Receipt]


class BurstBox:
    """A store, a file store, Modal; `bridge` may be replaced, as a dispatcher's next life would."""

    def __init__(self, box: Box, folder: Path, server: ModalServer) -> None:
        self.box, self.folder, self.server, self.store = box, folder, server, box.store
        self.bursts = Bursts(box.redis, box.store)
        self.own_stacks = {STACK}
        self.bucket: str | None = None
        self.calls: type[ModalCalls] = ModalCalls
        self.place = Place("spillway", None, "ak-test", "as-test")
        self.startup_s, self.ask_timeout_s, self.send_timeout_s, self.caps = 60.0, 5.0, 5.0, Caps(1.0, 25.0)
        self._built: list[Bridge] = []
        self.heard: list[Bundle] = []
        self.says: Says = succeeded
        self.container = Container(device="NVIDIA A10G", stack=STACK, cold_start_s=COLD_START_S, bundles_before=0)
        server.remote = self.answer
        self.bridge = self.another()

    def another(self) -> Bridge:
        """As the next dispatcher builds it: it knows nothing but what is in Redis."""
        cargo = Cargo(self.box.files, self.box.ffmpeg, self.bucket)
        self.gauges = Gauges(self.bursts, lambda: self.own_stacks, startup_s=600, timeout_s=600)
        calls = self.calls(self.place, ask_timeout_s=self.ask_timeout_s, send_timeout_s=self.send_timeout_s)
        built = Bridge(
            self.store,
            self.bursts,
            Pilot(calls, self.bursts, cargo, startup_s=self.startup_s, poll_s=0.02),
            cargo,
            gauges=self.gauges,
            limits=Limits(lease_s=LEASE_S, heartbeat_s=15, max_failures=2),
            money=Money(self.caps, lambda _: DOLLARS_PER_S, SCALEDOWN_S, LONGEST_CALL_S),
        )
        self._built.append(built)
        return built

    def begin(self, *jobs: Job, deadline_s: float = 60.0) -> Flight:
        flight = self.bridge.begin(tuple(job.id for job in jobs), reserve_usd=RESERVE_USD, deadline_s=deadline_s)
        assert isinstance(flight, Flight)
        return flight

    def step_until(self, condition: Callable[[], object], what: str) -> None:
        def stepped() -> object:
            self.bridge.step()
            return condition()

        wait_for(stepped, what)

    def until_settled(self) -> None:
        self.step_until(lambda: not self.bursts.under_way(), "every burst to be settled")

    def call_kept(self) -> str:
        self.step_until(lambda: self.bursts.under_way()[0].call_id, "the call's id to be kept")
        return str(self.bursts.under_way()[0].call_id)

    def answer(self, call: Call) -> dict[str, Any]:
        """The container."""
        bundle = Bundle.model_validate(call.args[0])
        self.heard.append(bundle)
        receipts = tuple(self.says(job) for job in bundle.jobs)
        return Reply(receipts=receipts, container=self.container, started_at=time.time(), seconds=SECONDS).plain()

    def ledger(self) -> DayOfLedger:
        (day,) = self.bursts.ledger(self.bursts.today()[:7])
        return day

    def files_of(self, job: Job) -> list[str]:
        return files_in(self.folder / "jobs" / job.id)

    def close(self) -> None:
        for built in self._built:
            built.close()

    def check(self) -> None:
        """What holds at every moment, whatever happened before: nothing lost, nothing doubled, and the ledger right."""
        recorded, under_way = Recorded(self.box.redis), self.bursts.under_way()
        recorded.check_jobs()
        days = self.bursts.ledger(self.bursts.today()[:7])
        assert sum(day.reserved_usd for day in days) == pytest.approx(sum(burst.reserved_usd for burst in under_way))
        in_calls = {pair for burst in under_way for pair in burst.jobs}
        on_modal = {(job_id, int(job["attempt"])) for job_id, job in recorded.jobs.items() if job.get("slot") == SLOT}
        assert on_modal <= in_calls, "a job is held for Modal that no call has"
        for job in recorded.jobs.values():
            if job["state"] == JobState.SUCCEEDED and job["runner"] == "modal":
                assert hashlib.sha256(self.box.files.read(job["result_key"])).hexdigest() == job["result_sha256"]


def succeeded(job: BundleJob) -> Receipt:
    content = transcript_of(job)
    return Receipt(
        job_id=job.id, attempt=job.attempt, outcome=Outcome.SUCCEEDED, transcript=content,
        sha256=hashlib.sha256(content.encode()).hexdigest(), stages_s={"asr": 1.0}, seconds=SECONDS,
    )  # fmt: skip


def stored(box: BurstBox, job: BundleJob) -> Receipt:
    """As a container leaves it: the result is there already."""
    content = transcript_of(job).encode()
    box.box.files.write_once(claim_key(job.id, job.attempt), b"fc")
    product = box.box.files.write(product_key(job.id, job.attempt, Stage.ASR), b"words")
    key = box.box.files.write_once(result_key(job.id, job.attempt), content).key
    return Receipt(
        job_id=job.id, attempt=job.attempt, outcome=Outcome.SUCCEEDED, result_key=key, sha256=hashlib.sha256(content).hexdigest(),
        products={Stage.ASR: product.key}, product_sha256={Stage.ASR: product.sha256},
    )  # fmt: skip


def ended(outcome: Outcome, code: str) -> Says:
    return lambda job: Receipt(job_id=job.id, attempt=job.attempt, outcome=outcome, error=JobFailure(code=code, message=f"it is {code}"))


def transcript_of(job: BundleJob) -> str:
    return Transcript(
        language="en", language_probability=None, duration_s=job.duration_s, segments=(), turns=(), speakers=(), warnings=(),
        models=Models(asr="fake", alignment=None, segmentation=None, embedding=None),
        run=Run(runner="modal", attempt=job.attempt, device="NVIDIA A10G", stages_s={}, real_time_factor=1.0),
    ).model_dump_json()  # fmt: skip


def pack_when(told: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recordings are packed when that is told, or after 10 s."""
    flac = Cargo._flac

    def waits(cargo: Cargo, *given: object) -> bytes:
        told.wait(10)
        return flac(cargo, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Cargo, "_flac", waits)


def key_of(job: Job) -> str:
    return result_key(job.id, job.attempt)


def state(box: BurstBox, job: Job) -> tuple[JobState, int, int, int]:
    """With what it has cost: attempts, losses, bursts that failed with it."""
    now = box.store.get(job.id)
    return now.state, now.attempt, now.losses, now.burst_failures


def is_there(box: BurstBox, key: str) -> bool:
    return key in [listed.key for listed in box.box.files.listed(key.rpartition("/")[0])]


def runs_here(box: BurstBox, job: Job) -> None:
    """It is back in the queue, and a local worker gets it."""
    claimed = box.store.claim(LOCAL, lease_s=60, fits_s=3600)
    assert claimed is not None
    assert claimed.id == job.id
    assert box.store.succeed(claimed, result_key="r") == JobState.SUCCEEDED


def not_deployed(box: BurstBox) -> None:
    box.server.is_deployed = False
