"""What goes out with a call, and what comes home: recordings as FLAC and transcripts in the reply, or both by the bucket."""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from core.burst import REVOKED, Bundle, BundleJob, Receipt
from core.errors import DiskFull, InvalidMedia, OurError, StorageUnavailable
from core.file_store import FileStore, claim_key, product_key, result_key
from core.job import Job, Stage
from core.job_files import check_input, write_result
from core.media import Ffmpeg, longest_s

PACKED_AT_ONCE = 4  # 64 clips of 14 s in 3.4 s, on two cores; one after another in 7.8 s
MOST_BYTES = 256 * 1024**2  # of a call's recordings: they are in memory some three times while they are sent


@dataclass(frozen=True)
class Cargo:
    """Safe to be used from several threads."""

    files: FileStore
    ffmpeg: Ffmpeg
    bucket: str | None  # `gs://bucket/prefix`, where the container finds the recordings itself

    def packed(
        self, jobs: Iterable[Job], *, deadline_s: float, check: Callable[[], None]
    ) -> tuple[Bundle | None, dict[str, bytes], list[Job]]:
        """The bundle, the recordings beside it, and the jobs whose recording cannot be sent: a local runner says of those what is wrong.

        There is no bundle of no jobs. Raises what `check` raises, which is called now and then, `StorageUnavailable` and `DiskFull`.
        """
        jobs = tuple(jobs)
        recordings = {} if self.bucket else self._recordings(jobs, check)
        unfit = [] if self.bucket else [job for job in jobs if job.id not in recordings]
        packed = tuple(self._bundle_job(job) for job in jobs if job not in unfit)
        return Bundle(file_store=self.bucket, deadline_s=deadline_s, jobs=packed) if packed else None, recordings, unfit

    def _bundle_job(self, job: Job) -> BundleJob:
        in_bucket = {"input_key": job.input_key, "products": job.products, "product_sha256": job.product_sha256}
        return BundleJob(
            id=job.id,
            attempt=job.attempt,
            options=job.options.model_copy(update={"metadata": {}}),  # the client's own, and of no use there
            duration_s=job.duration_s,
            input_sha256=job.input_sha256,
            **(in_bucket if self.bucket else {}),
        )

    def _recordings(self, jobs: Iterable[Job], check: Callable[[], None]) -> dict[str, bytes]:
        found, left_bytes = dict[str, bytes](), MOST_BYTES
        with ThreadPoolExecutor(PACKED_AT_ONCE, thread_name_prefix="burst-pack") as threads:
            for job, recording in zip(jobs, threads.map(lambda job: self._recording(job, check), jobs), strict=True):
                if recording is not None and len(recording) <= left_bytes:
                    found[job.id] = recording
                    left_bytes -= len(recording)
        return found

    def _recording(self, job: Job, check: Callable[[], None]) -> bytes | None:
        check()
        try:
            return self._flac(job, check)
        except (StorageUnavailable, DiskFull):
            raise
        except (InvalidMedia, OurError, FileNotFoundError):
            return None

    def landed(self, receipt: Receipt) -> str:
        """The key of a transcript that came home, written under its attempt's own name. Raises `OurError` when it is not whole."""
        if self.bucket is not None and receipt.result_key == result_key(receipt.job_id, receipt.attempt):
            return receipt.result_key
        content = (receipt.transcript or "").encode()
        if not content or hashlib.sha256(content).hexdigest() != receipt.sha256:
            raise OurError(f"the transcript of job {receipt.job_id} did not come home whole")
        return write_result(self.files, receipt.job_id, receipt.attempt, content).key

    def revoke(self, job_id: str, attempt: int) -> None:
        """Ends the job in its container, alone, where there is a bucket to say it by."""
        if self.bucket is not None:
            self.files.write(claim_key(job_id, attempt), REVOKED)

    def forget(self, job_id: str, attempt: int) -> None:
        """All that an attempt may have written."""
        products = (product_key(job_id, attempt, stage) for stage in Stage)
        for key in (claim_key(job_id, attempt), result_key(job_id, attempt), *products):
            self.files.delete(key)

    def _flac(self, job: Job, check: Callable[[], None]) -> bytes:
        options, most_s = job.options, longest_s(job.work_s)
        with self.files.local_copy(job.input_key, check) as path:
            check_input(path, job, check)
            return self.ffmpeg.flac(path, start_s=options.clip_start, end_s=options.clip_end, most_s=most_s, check=check)
