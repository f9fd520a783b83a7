"""The job runner: claims a job, decodes it, hands it to the engine, commits what comes out. Knows nothing of the ML stack."""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from time import monotonic
from uuid import uuid4

from core.errors import (
    CallerError,
    DiskFull,
    InputLost,
    JobCancelled,
    JobNotFound,
    LeaseLost,
    StorageUnavailable,
    StoreUnavailable,
)
from core.file_store import product_key
from core.job import Job, JobFailure, JobState, Stage
from core.job_files import write_result
from core.job_store import JobStore, Kept
from core.log import logger
from core.partial_file import StoredFile
from core.transcript import Transcript
from worker.attempt import DECODED, MOST_BROKEN, Recordings, callers_failure, decoded, kept, our_failure, without_speakers, work_of
from worker.leases import Held, Leases
from worker.patience import patiently
from worker.work import Transcribe, Work

log = logger("worker.runner")
FILE_STORE_PAUSE_S = 30.0  # full, or not to be reached
RELEASE_PATIENCE_S = 5.0  # for a claim under way, which is one call to Redis


@dataclass(frozen=True)
class Limits:
    lease_s: float
    max_audio_in_flight_s: float
    max_failures: int


class JobRunner:
    """Safe to be called from as many threads as jobs may be in flight."""

    def __init__(
        self, transcribe: Transcribe, leases: Leases, *, media: Recordings, store: JobStore, limits: Limits, give_up: Callable[[str], None]
    ) -> None:
        """`give_up` is told why when this worker breaks every job that it touches."""
        self._transcribe, self._leases, self._store, self._limits, self._give_up = transcribe, leases, store, limits, give_up
        self._media, self._files, self._runner = media, media.files, leases.runner
        self._stopping = threading.Event()
        self._claiming = threading.Lock()
        self._broken: set[str] = set()
        self._resume_at = 0.0
        self._tries = 0

    def work(self) -> int:
        """Runs jobs until none is pending that fits beside those in flight; how many it ran."""
        ran = 0
        while self._run_one():
            ran += 1
        return ran

    def tries(self) -> int | None:
        """How often it has tried to claim; None while it has jobs, or claims none for a while."""
        return None if self._leases.in_flight() or not self._may_claim() else self._tries

    def stop_claiming(self) -> None:
        self._stopping.set()

    def release_all(self, *, keep: Held | None = None) -> bool:
        """Hands back whatever is in flight but `keep`, also what is being claimed now; whether Redis has heard of all.

        Their attempts find their leases lost and drop their work.
        """
        is_alone = self._claiming.acquire(timeout=RELEASE_PATIENCE_S)
        try:
            return self.release(held for held in self._leases.in_flight() if held is not keep)
        finally:
            if is_alone:
                self._claiming.release()

    def release(self, jobs: Iterable[Held]) -> bool:
        """Whether Redis has heard of all. Not the attempt's any more is as good."""
        for held in jobs:
            try:
                if self._store.release(held.job):
                    log.info("job released", job_id=held.job.id, stage=held.stage, progress=round(held.progress, 2))
            except StoreUnavailable as error:
                log.warning("jobs not released: their leases will expire", job_id=held.job.id, reason=str(error))
                return False
        return True

    def _run_one(self) -> bool:
        # Claim and hold as one, or two threads would each see room for what only fits once.
        self._tries += 1
        with self._claiming:
            job = self._claim() if self._may_claim() else None
            if job is None:
                return False
            held = self._leases.hold(job)
        try:
            self._run(held)
        finally:
            self._leases.drop(held)
        return True

    def _may_claim(self) -> bool:
        return not self._stopping.is_set() and monotonic() >= self._resume_at

    def _claim(self) -> Job | None:
        """With one id for all tries: a claim whose reply was lost gives the same job again."""
        fits_s = self._limits.max_audio_in_flight_s - self._leases.audio_in_flight_s()
        claim_id = uuid4().hex
        try:
            return patiently(lambda: self._store.claim(self._runner, lease_s=self._limits.lease_s, fits_s=fits_s, claim_id=claim_id))
        except JobNotFound:  # deleted in the same moment
            return None

    def _run(self, held: Held) -> None:
        job, started = held.job, monotonic()
        log.info("job started", job_id=job.id, attempt=job.attempt, audio_s=round(job.work_s, 1), waited_s=_waited_s(job))
        outcome = self._attempt(held)
        log.info("job ended", job_id=job.id, attempt=job.attempt, outcome=outcome, seconds=round(monotonic() - started, 2))

    def _attempt(self, held: Held) -> str:
        """Catches everything: whatever breaks, the job gets an answer."""
        job = held.job
        try:
            transcript = self._transcribe(self._work(held))
            if missing := without_speakers(job, transcript.warnings):
                return self._fail_with_words(held, transcript, missing)
            ended = self._commit(held, transcript)
            self._broken.clear()
            return ended
        except JobCancelled:
            return patiently(lambda: self._store.end_cancelled(job)) or "lost"
        except LeaseLost:
            return "lost"
        except CallerError as error:
            failure = callers_failure(error)
            return patiently(lambda: self._store.fail(job, failure)) or "lost"
        except (DiskFull, StorageUnavailable) as error:
            log.error("file store away: no job is claimed for a while", reason=str(error), seconds=FILE_STORE_PAUSE_S)
            self._resume_at = monotonic() + FILE_STORE_PAUSE_S
            return patiently(lambda: self._store.release(job)) or "lost"
        except Exception as error:
            log.exception("job broke", job_id=job.id, stage=held.stage)
            failure = our_failure(error, job.id, held.stage)
            outcome = patiently(lambda: self._store.retry(job, failure, max_failures=self._limits.max_failures))
            if outcome and not isinstance(error, InputLost):  # a job that was deleted meanwhile may break for that alone
                self._count_broken(job)
            return outcome or "lost"

    def _count_broken(self, job: Job) -> None:
        """A worker that breaks every job must not work through the queue that way."""
        self._broken.add(job.id)
        if len(self._broken) > MOST_BROKEN and not self._stopping.is_set():
            self.stop_claiming()
            self._give_up(f"{len(self._broken)} jobs in a row broke here; the log says how")

    def _work(self, held: Held) -> Work:
        job = held.job
        held.report(Stage.DECODE, 0.0)
        begun = monotonic()
        audio = decoded(job, self._media, held.check_on)
        held.stages_s[Stage.DECODE] = monotonic() - begun
        held.report(Stage.DECODE, DECODED)
        held.check()
        return work_of(job, audio, kept(job, self._files), keep=partial(self._keep, held), report=held.report, check=held.check)

    def _keep(self, held: Held, stage: Stage, content: bytes) -> None:
        key = product_key(held.job.id, held.job.attempt, stage)
        stored = self._files.write(key, content, durable=False)  # a lost one costs time, and its digest tells a torn one
        if not patiently(lambda: self._store.keep_product(held.job, stage, key, sha256=stored.sha256)):
            self._files.delete(key)
            raise LeaseLost(held.job.id)

    def _commit(self, held: Held, transcript: Transcript) -> str:
        job, stored = held.job, self._store_result(held, transcript)
        stages_s = held.stages_s | transcript.run.stages_s
        succeed = partial(self._store.succeed, job, result_key=stored.key, result_sha256=stored.sha256)
        state = patiently(lambda: succeed(warnings=transcript.warnings, stages_s=stages_s))
        if state != JobState.SUCCEEDED:  # lost, or cancelled in that moment
            self._files.delete(stored.key)
        return state or "lost"

    def _fail_with_words(self, held: Held, transcript: Transcript, failure: JobFailure) -> str:
        """Once more, and in the end failed as was asked for, the words attached."""
        job, stored = held.job, self._store_result(held, transcript)
        kept = Kept(stored.key, stored.sha256, transcript.warnings)
        state = patiently(lambda: self._store.retry(job, failure, max_failures=self._limits.max_failures, kept=kept))
        if state != JobState.FAILED:
            self._files.delete(stored.key)
        if state:
            self._count_broken(job)
        return state or "lost"

    def _store_result(self, held: Held, transcript: Transcript) -> StoredFile:
        """Raises `LeaseLost`."""
        held.report(Stage.COMMIT, 1.0)
        held.check()
        return write_result(self._files, held.job.id, held.job.attempt, transcript.model_dump_json().encode())


def _waited_s(job: Job) -> float:
    return round((job.started_at or job.created_at) - job.created_at, 2)
