"""A bundle's jobs beside one another, each with a receipt: the engine and the exchange are the test's own."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from core.burst import BundleJob, Outcome, Receipt
from core.errors import BucketDenied, DiskFull, InputLost, InvalidRequest, LeaseLost, OutOfMemory, Overdue, StorageUnavailable
from core.job import JobOptions, Stage
from core.local_file_store import LocalFileStore
from core.media import Ffmpeg
from core.transcript import Notice, Transcript
from tests.conftest import wait_for
from tests.worker.box import transcript
from worker.attempt import MOST_BROKEN, Recordings
from worker.exchange import BucketExchange, CallExchange
from worker.remote import BundleRunner
from worker.work import DIARIZATION_FAILED, Work


class Exchange(CallExchange):
    """One whose recordings need no decoding, and whose jobs can be taken away."""

    taken: set[str]

    def audio(self, job: BundleJob, check: Callable[[], None]) -> bytes:  # noqa: ARG002 - as the real ones
        return bytes(4 * 16000)

    def is_ours(self, job: BundleJob) -> bool:
        return job.id not in self.taken


@pytest.fixture
def exchange(ffmpeg: str) -> Exchange:
    made = Exchange({}, ffmpeg)  # type: ignore[arg-type]
    object.__setattr__(made, "taken", set())
    return made


def jobs(*names: str, duration_s: float = 1.0) -> list[BundleJob]:
    return [BundleJob(id=name, attempt=2, options=JobOptions(), duration_s=duration_s) for name in names]


def run(
    transcribe: Any, exchange: Exchange | BucketExchange, bundle: Sequence[BundleJob], *, deadline_s: float = 20.0, at_once: int = 8
) -> tuple[Receipt, ...]:
    runner = BundleRunner(transcribe, jobs_at_once=at_once, look_every_s=0.02, grace_s=0.2)
    return runner.run(bundle, exchange, deadline_s=deadline_s)


def test_the_jobs_of_a_bundle_run_side_by_side(exchange: Exchange) -> None:
    together = threading.Barrier(3)

    def transcribe(work: Work) -> Transcript:
        together.wait(timeout=5)
        return transcript(work)

    receipts = run(transcribe, exchange, jobs("a", "b", "c"))
    assert [(one.job_id, one.attempt, one.outcome) for one in receipts] == [(name, 2, Outcome.SUCCEEDED) for name in "abc"]


def test_there_are_as_many_at_once_as_may_be_and_no_more(exchange: Exchange) -> None:
    flying, most, lock, two = [0], [0], threading.Lock(), threading.Event()

    def transcribe(work: Work) -> Transcript:
        with lock:
            flying[0] += 1
            most[0] = max(most[0], flying[0])
            if flying[0] == 2:
                two.set()
        assert two.wait(10)
        threading.Event().wait(0.02)  # for a third to come
        with lock:
            flying[0] -= 1
        return transcript(work)

    receipts = run(transcribe, exchange, jobs(*"abcdef"), at_once=2)
    assert most[0] == 2
    assert {receipt.outcome for receipt in receipts} == {Outcome.SUCCEEDED}


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [
        (InvalidRequest("this model knows English only"), Outcome.FAILED, "invalid_request"),
        (RuntimeError("secret detail"), Outcome.BROKE, "engine_failed"),
        (TimeoutError("as Modal's client would take for pending"), Outcome.BROKE, "engine_failed"),
        (OutOfMemory("CUDA out of memory"), Outcome.BROKE, "out_of_memory"),
        (StorageUnavailable("away"), Outcome.RETURNED, "storage_unavailable"),
        (BucketDenied("no role"), Outcome.RETURNED, "storage_denied"),
        (DiskFull("full"), Outcome.RETURNED, "disk_full"),
        (LeaseLost("a"), Outcome.LOST, None),
    ],
)
def test_a_job_that_ends_badly_says_how_and_the_others_go_on(
    exchange: Exchange, error: Exception, outcome: Outcome, code: str | None
) -> None:
    def transcribe(work: Work) -> Transcript:
        if work.job_id == "bad":
            raise error
        return transcript(work)

    good, bad = run(transcribe, exchange, jobs("good", "bad"))
    assert good.outcome == Outcome.SUCCEEDED
    assert (bad.outcome, bad.error and bad.error.code) == (outcome, code)
    assert "secret" not in bad.model_dump_json()


def test_what_is_not_done_by_the_deadline_is_handed_back_and_what_is_done_goes_home(exchange: Exchange) -> None:
    def transcribe(work: Work) -> Transcript:
        while work.job_id == "long":
            work.check()
        return transcript(work)

    short, long = run(transcribe, exchange, jobs("short", "long"), deadline_s=0.3)
    assert (short.outcome, long.outcome) == (Outcome.SUCCEEDED, Outcome.RETURNED)
    assert long.error is not None
    assert long.error.code == "overdue"


def test_a_job_that_is_done_as_the_deadline_passes_goes_home(exchange: Exchange) -> None:
    def transcribe(work: Work) -> Transcript:
        with suppress(Overdue):
            while True:
                work.check()
        return transcript(work)

    (receipt,) = run(transcribe, exchange, jobs("late"), deadline_s=0.2)
    assert receipt.outcome == Outcome.SUCCEEDED


def test_a_job_that_never_looks_up_is_left_behind_and_its_process_is_unfit(exchange: Exchange) -> None:
    ever = threading.Event()

    def transcribe(work: Work) -> Transcript:
        if work.job_id == "stuck":
            ever.wait(10)
        return transcript(work)

    runner = BundleRunner(transcribe, jobs_at_once=4, look_every_s=0.02, grace_s=0.1)
    fine, stuck = runner.run(jobs("fine", "stuck"), exchange, deadline_s=0.1)
    assert (fine.outcome, stuck.outcome, runner.is_fit) == (Outcome.SUCCEEDED, Outcome.RETURNED, False)
    wait_for(lambda: "claims" not in {thread.name for thread in threading.enumerate()}, "nobody to ask for it any more")
    ever.set()


def test_a_job_that_is_taken_away_ends_alone(exchange: Exchange) -> None:
    begun = threading.Event()

    def transcribe(work: Work) -> Transcript:
        work.report(Stage.ASR, 0.1)
        begun.set()
        while work.job_id == "taken":
            work.check()
        wait_for(lambda: "taken" in exchange.taken, "the other to be taken")
        return transcript(work)

    def take() -> None:
        begun.wait(5)
        exchange.taken.add("taken")

    threading.Thread(target=take).start()
    other, taken = run(transcribe, exchange, jobs("other", "taken"))
    assert (other.outcome, taken.outcome) == (Outcome.SUCCEEDED, Outcome.LOST)


def test_a_bucket_that_does_not_say_whose_a_job_is_keeps_no_deadline_waiting(exchange: Exchange) -> None:
    asked, answers = threading.Event(), threading.Event()

    class Silent(Exchange):
        def is_ours(self, job: BundleJob) -> bool:  # noqa: ARG002 - as the real ones
            asked.set()
            return answers.wait(10)

    def transcribe(work: Work) -> Transcript:
        if work.job_id == "short":
            assert asked.wait(5)
            return transcript(work)
        while True:
            work.check()

    begun = monotonic()
    silent = Silent(exchange.recordings, exchange.ffmpeg)
    short, long = run(transcribe, silent, jobs("short", "long"), deadline_s=0.5)
    assert monotonic() - begun < 5
    assert (short.outcome, long.outcome) == (Outcome.SUCCEEDED, Outcome.RETURNED)
    answers.set()


def test_a_call_that_is_run_again_ends_a_job_as_its_first_run_did(tmp_path: Path, ffmpeg: str) -> None:
    """Its client wants speakers or no success: what lies in the bucket is its words alone."""

    class Bucket(BucketExchange):
        def audio(self, job: BundleJob, check: Callable[[], None]) -> bytes:  # noqa: ARG002 - as the real ones
            return bytes(4 * 16000)

    def lacking(work: Work) -> Transcript:
        return transcript(work, Notice(code=DIARIZATION_FAILED, message="m"))

    bucket = Bucket("fc-1", Recordings(LocalFileStore(tmp_path), Ffmpeg(ffmpeg)))
    bundle = [BundleJob(id="a", attempt=1, options=JobOptions(on_diarization_failure="fail"), duration_s=1.0)]
    (first,), (again,) = run(lacking, bucket, bundle), run(lacking, bucket, bundle)
    assert (first.outcome, again.outcome) == (Outcome.BROKE, Outcome.BROKE)
    assert (first.sha256, first.error) == (again.sha256, again.error)


def test_a_process_that_breaks_one_job_after_the_other_is_unfit(exchange: Exchange) -> None:
    def transcribe(_: Work) -> Transcript:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    runner = BundleRunner(transcribe, jobs_at_once=1)
    runner.run(jobs(*(str(number) for number in range(MOST_BROKEN))), exchange, deadline_s=5)
    assert runner.is_fit
    runner.run(jobs("one more"), exchange, deadline_s=5)
    assert not runner.is_fit


def test_a_success_between_them_says_that_the_jobs_were_broken(exchange: Exchange) -> None:
    def transcribe(work: Work) -> Transcript:
        if work.job_id != "good":
            raise RuntimeError("broken by what is in it")
        return transcript(work)

    runner = BundleRunner(transcribe, jobs_at_once=1)
    broken = [str(number) for number in range(2 * MOST_BROKEN)]
    runner.run(jobs(*broken[:MOST_BROKEN], "good", *broken[MOST_BROKEN:]), exchange, deadline_s=5)
    assert runner.is_fit


def test_a_process_whose_recordings_are_gone_is_fit(exchange: Exchange) -> None:
    def transcribe(_: Work) -> Transcript:
        raise InputLost("send it again")

    runner = BundleRunner(transcribe, jobs_at_once=1)
    receipts = runner.run(jobs(*(str(number) for number in range(MOST_BROKEN + 1))), exchange, deadline_s=5)
    assert {(receipt.outcome, receipt.error and receipt.error.code) for receipt in receipts} == {(Outcome.BROKE, "input_lost")}
    assert runner.is_fit
