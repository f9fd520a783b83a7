"""Where the recordings of a bundle come from, and where its results go: a bucket, or the call itself.

In a bucket each attempt's claim is written once, with the call's id in it. So a call that is preempted and run again goes on under
the same id, another call with the same attempt does not, and whoever writes over a claim ends that job here.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Protocol

from core.burst import BundleJob
from core.errors import LeaseLost, OurError, StorageUnavailable
from core.file_store import claim_key, product_key, result_key
from core.job import Stage
from core.log import logger
from core.media import Ffmpeg
from core.partial_file import StoredFile
from core.transcript import Transcript
from worker.attempt import Recordings, decoded, decoded_clip, kept

log = logger("worker.exchange")


class Exchange(Protocol):
    """Raises `StorageUnavailable` and `DiskFull` for reasons of ours."""

    def claim(self, job: BundleJob) -> None:
        """Raises `LeaseLost` when the attempt is not this call's."""

    def is_ours(self, job: BundleJob) -> bool:
        """Whether the attempt still is; true where nobody can be asked."""

    def finished(self, job: BundleJob) -> dict[str, Any] | None:
        """What the receipt says of a result that an earlier run of this call left; None if there is none."""

    def audio(self, job: BundleJob, check: Callable[[], None]) -> bytes: ...

    def kept(self, job: BundleJob) -> dict[Stage, bytes]: ...

    def keep(self, job: BundleJob, stage: Stage, content: bytes) -> StoredFile | None:
        """The product as it is kept, where it is."""

    def finish(self, job: BundleJob, transcript: Transcript) -> dict[str, Any]:
        """What the receipt says of the result."""


@dataclass(frozen=True)
class BucketExchange:
    call_id: str
    media: Recordings

    def claim(self, job: BundleJob) -> None:
        try:
            self.media.files.write_once(claim_key(job.id, job.attempt), self.call_id.encode())
        except FileExistsError as error:
            raise LeaseLost(job.id) from error

    def is_ours(self, job: BundleJob) -> bool:
        try:
            return self.media.files.read(claim_key(job.id, job.attempt)) == self.call_id.encode()
        except FileNotFoundError:  # the job was deleted
            return False
        except StorageUnavailable as error:
            log.warning("claim cannot be read", job_id=job.id, reason=str(error))
            return True

    def finished(self, job: BundleJob) -> dict[str, Any] | None:
        key = result_key(job.id, job.attempt)
        try:
            content = self.media.files.read(key)
        except FileNotFoundError:
            return None
        return {"result_key": key, **_said(content, Transcript.model_validate_json(content))}

    def audio(self, job: BundleJob, check: Callable[[], None]) -> bytes:
        return decoded(job, self.media, check)

    def kept(self, job: BundleJob) -> dict[Stage, bytes]:
        return kept(job, self.media.files)

    def keep(self, job: BundleJob, stage: Stage, content: bytes) -> StoredFile | None:
        return self.media.files.write(product_key(job.id, job.attempt, stage), content)

    def finish(self, job: BundleJob, transcript: Transcript) -> dict[str, Any]:
        """Of two runs of one call the first to write has made the result, whichever ends first."""
        if not self.is_ours(job):
            raise LeaseLost(job.id)
        content = _json(transcript)
        try:
            self.media.files.write_once(result_key(job.id, job.attempt), content)
        except FileExistsError as error:
            if first := self.finished(job):
                return first
            raise LeaseLost(job.id) from error
        return {"result_key": result_key(job.id, job.attempt), **_said(content, transcript)}


@dataclass(frozen=True)
class CallExchange:
    """Recordings are FLAC in the call, transcripts go home in its receipts, and the commit there is the fence."""

    recordings: Mapping[str, bytes]  # by job id
    ffmpeg: Ffmpeg

    def claim(self, job: BundleJob) -> None: ...

    def is_ours(self, job: BundleJob) -> bool:  # noqa: ARG002 - nobody can be asked
        return True

    def finished(self, job: BundleJob) -> dict[str, Any] | None:  # noqa: ARG002 - nothing outlives a run
        return None

    def audio(self, job: BundleJob, check: Callable[[], None]) -> bytes:
        if (recording := self.recordings.get(job.id)) is None:
            raise OurError(f"the recording of job {job.id} did not come with its bundle")
        with NamedTemporaryFile(suffix=".flac") as file:
            file.write(recording)
            file.flush()
            return decoded_clip(job, Path(file.name), self.ffmpeg, check)

    def kept(self, job: BundleJob) -> dict[Stage, bytes]:  # noqa: ARG002 - products stay where the file store is
        return {}

    def keep(self, job: BundleJob, stage: Stage, content: bytes) -> StoredFile | None: ...

    def finish(self, job: BundleJob, transcript: Transcript) -> dict[str, Any]:  # noqa: ARG002 - as the other's
        content = _json(transcript)
        return {"transcript": content.decode(), **_said(content, transcript)}


def _json(transcript: Transcript) -> bytes:
    return transcript.model_dump_json().encode()


def _said(content: bytes, transcript: Transcript) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "warnings": transcript.warnings, "stages_s": transcript.run.stages_s}
