"""Runs a bundle of jobs away from the box: no Redis, no leases; what becomes of each job goes home in its receipt."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

from core.burst import BundleJob, Outcome, Receipt
from core.errors import CallerError, DiskFull, InputLost, LeaseLost, Overdue, StorageUnavailable
from core.job import JobFailure, Stage
from core.log import logger
from core.partial_file import StoredFile
from core.transcript import Transcript
from worker.attempt import MOST_BROKEN, callers_failure, our_failure, without_speakers, work_of
from worker.exchange import Exchange
from worker.work import Transcribe, Work

log = logger("worker.remote")
LOOK_EVERY_S = 5.0  # at whose the jobs are
GRACE_S = 20.0  # beyond the deadline, for attempts to come by their next look at it
OVERDUE = JobFailure(code=Overdue.code, message="The call's deadline passed before the job was done: it goes back to the queue.")


class Attempt:
    """One job in flight: where it is, and whether it is still to be done."""

    def __init__(self, job: BundleJob, exchange: Exchange) -> None:
        self.job, self.exchange = job, exchange
        self.receipt: Future[Receipt] = Future()
        self.stage: Stage | None = None
        self.decode_s = 0.0
        self.products: dict[str, StoredFile] = {}
        self._end: LeaseLost | None = None

    def report(self, stage: Stage, _: float) -> None:
        self.stage = stage

    def end(self, why: LeaseLost) -> None:
        self._end = self._end or why

    def check(self) -> None:
        """To be called between batches; raises what `end` was told."""
        if self._end:
            raise self._end

    def keep(self, stage: Stage, content: bytes) -> None:
        if kept := self.exchange.keep(self.job, stage, content):
            self.products[stage.value] = kept

    def keys(self) -> dict[str, str]:
        return {stage: kept.key for stage, kept in self.products.items()}

    def digests(self) -> dict[str, str]:
        return {stage: kept.sha256 for stage, kept in self.products.items()}

    def work(self) -> Work:
        job, begun = self.job, monotonic()
        self.report(Stage.DECODE, 0.0)
        audio = self.exchange.audio(job, self.check)
        self.decode_s = monotonic() - begun
        self.check()
        return work_of(job, audio, self.exchange.kept(job), keep=self.keep, report=self.report, check=self.check)

    def finish(self, transcript: Transcript) -> dict[str, Any]:
        """Also past the deadline: the work is done, and paid for. Whether the attempt is still ours is the exchange's to know."""
        self.report(Stage.COMMIT, 1.0)
        stages_s = {Stage.DECODE.value: round(self.decode_s, 3)} | transcript.run.stages_s
        run = transcript.run.model_copy(update={"runner": "modal"})
        return self.exchange.finish(self.job, transcript.model_copy(update={"run": run})) | {"stages_s": stages_s}


class BundleRunner:
    """All jobs of a bundle run at once, as far as there are threads, so that they fill batches."""

    def __init__(self, transcribe: Transcribe, *, jobs_at_once: int, look_every_s: float = LOOK_EVERY_S, grace_s: float = GRACE_S) -> None:
        self._transcribe, self._jobs_at_once = transcribe, jobs_at_once
        self._look_every_s, self._grace_s = look_every_s, grace_s
        self._broken: set[str] = set()
        self._is_stuck = False

    @property
    def is_fit(self) -> bool:
        """False when one job does not end, or several in a row broke: then this process is what is broken."""
        return not self._is_stuck and len(self._broken) <= MOST_BROKEN

    def run(self, jobs: Sequence[BundleJob], exchange: Exchange, *, deadline_s: float) -> tuple[Receipt, ...]:
        """One receipt for each job, in their order, at the latest a while after the deadline. Raises nothing."""
        attempts = [Attempt(job, exchange) for job in jobs]
        waiting: SimpleQueue[Attempt] = SimpleQueue()
        for attempt in attempts:
            waiting.put(attempt)
        for number in range(min(len(attempts), self._jobs_at_once)):
            # Daemons: a job that never ends must not keep the process.
            threading.Thread(target=self._work_through, args=(waiting,), name=f"job-{number}", daemon=True).start()
        over = threading.Event()
        threading.Thread(target=self._keep_looking, args=(attempts, over), name="claims", daemon=True).start()
        try:
            self._await(attempts, deadline_s)
        finally:
            over.set()
        return tuple(self._receipt(attempt) for attempt in attempts)

    def _work_through(self, waiting: SimpleQueue[Attempt]) -> None:
        while True:
            try:
                attempt = waiting.get_nowait()
            except Empty:
                return
            begun = monotonic()
            ended = self._attempt(attempt)
            kept = {"products": attempt.keys(), "product_sha256": attempt.digests()}
            receipt = ended.model_copy(update={"seconds": round(monotonic() - begun, 3), **kept})
            log.info("job ended", job_id=receipt.job_id, attempt=receipt.attempt, outcome=receipt.outcome, seconds=receipt.seconds)
            attempt.receipt.set_result(receipt)

    def _attempt(self, attempt: Attempt) -> Receipt:
        """Catches everything: whatever breaks, the job gets an answer, and the others go on."""
        job = attempt.job
        try:
            attempt.check()
            attempt.exchange.claim(job)
            said = attempt.exchange.finished(job) or attempt.finish(self._transcribe(attempt.work()))
            if failure := without_speakers(job, said["warnings"]):
                return _done(job, said, Outcome.BROKE, failure)
            self._broken.clear()
            return _done(job, said)
        except Overdue:
            return _ended(job, Outcome.RETURNED, OVERDUE)
        except LeaseLost:
            return _ended(job, Outcome.LOST)
        except CallerError as error:
            return _ended(job, Outcome.FAILED, callers_failure(error))
        except (DiskFull, StorageUnavailable) as error:
            log.error("file store away", job_id=job.id, reason=str(error))
            return _ended(job, Outcome.RETURNED, JobFailure(code=error.code, message=str(error)))
        except Exception as error:
            log.exception("job broke", job_id=job.id, stage=attempt.stage)
            if not isinstance(error, InputLost):
                self._broken.add(job.id)
            return _ended(job, Outcome.BROKE, our_failure(error, job.id, attempt.stage))

    def _keep_looking(self, attempts: Sequence[Attempt], over: threading.Event) -> None:
        """Whose the jobs are. On a thread of its own: a bucket that is away takes a minute to say so of one, and the deadline does
        not wait."""
        while not over.wait(self._look_every_s):
            for attempt in attempts:
                is_open = attempt.stage is not None and not (attempt.receipt.done() or over.is_set())
                if is_open and not attempt.exchange.is_ours(attempt.job):
                    attempt.end(LeaseLost(attempt.job.id))

    def _await(self, attempts: Sequence[Attempt], deadline_s: float) -> None:
        """Until all have ended, or those that are overdue had time to hear of it."""
        receipts = [attempt.receipt for attempt in attempts]
        if wait(receipts, timeout=deadline_s).not_done:
            for attempt in attempts:
                attempt.end(Overdue(attempt.job.id))
            wait(receipts, timeout=self._grace_s)

    def _receipt(self, attempt: Attempt) -> Receipt:
        if attempt.receipt.done():
            return attempt.receipt.result()
        self._is_stuck = True
        log.critical("job does not end", job_id=attempt.job.id, stage=attempt.stage)
        return _ended(attempt.job, Outcome.RETURNED, OVERDUE)


def _done(job: BundleJob, said: Mapping[str, Any], outcome: Outcome = Outcome.SUCCEEDED, failure: JobFailure | None = None) -> Receipt:
    return Receipt(job_id=job.id, attempt=job.attempt, outcome=outcome, error=failure, **said)


def _ended(job: BundleJob, outcome: Outcome, error: JobFailure | None = None) -> Receipt:
    return Receipt(job_id=job.id, attempt=job.attempt, outcome=outcome, error=error)
