"""The job runner: claims a job, decodes it, hands it to the engine, commits what comes out. Knows nothing of the ML stack."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TypeVar

from core.errors import CallerError, EngineFailed, InvalidMedia, JobCancelled, LeaseLost, OurError, OutOfMemory, StoreUnavailable
from core.file_store import LocalFileStore, product_key, result_key
from core.job import Job, JobFailure, Stage
from core.job_store import JobStore, Runner
from core.log import logger
from core.media import Ffmpeg
from core.transcript import Transcript
from worker.leases import Held, Leases
from worker.work import Transcribe, Work

log = logger("worker.runner")
Reply = TypeVar("Reply")
DECODED = 0.05  # share of a job's progress that decoding is worth


@dataclass(frozen=True)
class Limits:
    lease_s: float
    max_audio_in_flight_s: float
    max_failures: int


class JobRunner:
    """Safe to be called from as many threads as jobs may be in flight."""

    def __init__(
        self, store: JobStore, files: LocalFileStore, ffmpeg: Ffmpeg, transcribe: Transcribe, leases: Leases, runner: Runner, limits: Limits
    ) -> None:
        self._store, self._files, self._ffmpeg, self._transcribe = store, files, ffmpeg, transcribe
        self._leases, self._runner, self._limits = leases, runner, limits
        self._stopping = threading.Event()
        self._claiming = threading.Lock()

    def work(self) -> int:
        """Runs jobs until none is pending that fits beside those in flight; how many it ran."""
        ran = 0
        while self._run_one():
            ran += 1
        return ran

    def stop_claiming(self) -> None:
        self._stopping.set()

    def release_all(self) -> None:
        """Hands back whatever is in flight; its attempts find their leases lost and drop their work."""
        for held in self._leases.in_flight():
            self._store.release(held.job)
            log.info("job released", job_id=held.job.id, stage=held.stage)

    def _run_one(self) -> bool:
        # Claim and hold as one, or two threads would each see room for what only fits once.
        with self._claiming:
            job = None if self._stopping.is_set() else self._claim()
            if job is None:
                return False
            holding = self._leases.holding(job)
            held = holding.__enter__()
        try:
            self._run(held)
        finally:
            holding.__exit__(None, None, None)
        return True

    def _claim(self) -> Job | None:
        fits_s = self._limits.max_audio_in_flight_s - self._leases.audio_in_flight_s()
        return self._patiently(lambda: self._store.claim(self._runner, lease_s=self._limits.lease_s, fits_s=fits_s))

    def _run(self, held: Held) -> None:
        job, started = held.job, monotonic()
        log.info("job started", job_id=job.id, attempt=job.attempt, audio_s=round(job.work_s, 1), waited_s=_waited_s(job))
        outcome = self._attempt(held)
        log.info("job ended", job_id=job.id, attempt=job.attempt, outcome=outcome, seconds=round(monotonic() - started, 2))

    def _attempt(self, held: Held) -> str:
        """One of the two places that may catch everything: whatever breaks, the job gets an answer."""
        job = held.job
        try:
            transcript = self._transcribe(self._work(held))
            return self._commit(held, transcript)
        except JobCancelled:
            return self._patiently(lambda: self._store.end_cancelled(job)) or "lost"
        except LeaseLost:
            return "lost"
        except CallerError as error:
            failure = JobFailure(code=error.code, message=str(error))
            return self._patiently(lambda: self._store.fail(job, failure)) or "lost"
        except Exception as error:
            log.exception("job broke", job_id=job.id, stage=held.stage)
            failure = _our_failure(error, job, held.stage)
            return self._patiently(lambda: self._store.retry(job, failure, max_failures=self._limits.max_failures)) or "lost"

    def _work(self, held: Held) -> Work:
        job = held.job
        held.report(Stage.DECODE, 0.0)
        audio = self._decode(job)
        held.report(Stage.DECODE, DECODED)
        held.check()
        return Work(
            job_id=job.id,
            attempt=job.attempt,
            options=job.options,
            audio=audio,
            offset_s=job.options.clip_start or 0.0,
            duration_s=job.duration_s,
            kept={Stage(stage): self._files.read(key) for stage, key in job.products.items()},
            keep=lambda stage, content: self._keep(held, stage, content),
            report=lambda stage, progress: held.report(stage, DECODED + (1 - DECODED) * progress),
            check=held.check,
        )

    def _decode(self, job: Job) -> bytes:
        try:
            path = self._files.local_path(job.input_key)
        except FileNotFoundError as error:
            raise OurError(f"the upload of job {job.id} is not in the file store") from error
        audio = self._ffmpeg.decode(path, start_s=job.options.clip_start, end_s=job.options.clip_end)
        if not audio:
            raise InvalidMedia("the recording holds no sound that can be decoded")
        return audio

    def _keep(self, held: Held, stage: Stage, content: bytes) -> None:
        key = product_key(held.job.id, held.job.attempt, stage)
        self._files.write(key, content)
        if not self._patiently(lambda: self._store.keep_product(held.job, stage, key)):
            raise LeaseLost(held.job.id)

    def _commit(self, held: Held, transcript: Transcript) -> str:
        job = held.job
        held.report(Stage.COMMIT, 1.0)
        held.check()
        key = result_key(job.id, job.attempt)
        self._files.write(key, transcript.model_dump_json().encode())
        state = self._patiently(lambda: self._store.succeed(job, result_key=key, warnings=transcript.warnings))
        if state is None:
            self._files.delete(key)
        return state or "lost"

    def _patiently(self, step: Callable[[], Reply]) -> Reply:
        """Waits for a Redis that is away: leases stand still with it, and what is done is not thrown away."""
        pause_s = 0.1
        while True:
            try:
                return step()
            except StoreUnavailable as error:
                log.warning("waiting for redis", reason=str(error))
                threading.Event().wait(pause_s)
                pause_s = min(2 * pause_s, 5.0)


def _waited_s(job: Job) -> float:
    return round((job.started_at or job.created_at) - job.created_at, 2)


def _our_failure(error: Exception, job: Job, stage: Stage | None) -> JobFailure:
    """Generic outside: what broke is in the log under the job's id."""
    at = error.stage if isinstance(error, EngineFailed) else stage or Stage.DECODE
    if isinstance(error, OutOfMemory):
        return JobFailure(
            code=error.code, message=f"The device ran out of memory in stage {at} at the smallest batch: use a smaller model."
        )
    code = error.code if isinstance(error, OurError) else EngineFailed.code
    return JobFailure(code=code, message=f"Something broke on our side in stage {at}; the worker's log says what, under job {job.id}.")
