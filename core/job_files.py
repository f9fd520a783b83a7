"""Which files are a job's: reading them back as they were written, and deleting them, all or what has had its time."""

from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from core.errors import InputLost, TranscriptNotReady
from core.file_store import JOBS, UPLOADS, FileStore, input_key, is_product, is_result, never, result_key
from core.job import Job
from core.partial_file import StoredFile

CHUNK_BYTES = 1024**2


class Accepted(Protocol):
    """What a job's files are held to, wherever it runs."""

    @property
    def input_sha256(self) -> str: ...
    @property
    def products(self) -> Mapping[str, str]: ...
    @property
    def product_sha256(self) -> Mapping[str, str]: ...


def check_input(path: Path, job: Accepted, check: Callable[[], None] = never) -> None:
    """Holds a recording to what was accepted. What `check`, called now and then, raises ends it. Raises `InputLost`."""
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            check()
    if digest.hexdigest() != job.input_sha256:
        raise InputLost("the recording was damaged in the file store after it was accepted (its checksum is another): send it again")


def read_product(files: FileStore, job: Accepted, stage: str) -> bytes | None:
    """None for one that is gone, or not as it was written."""
    try:
        content = files.read(job.products[stage])
    except FileNotFoundError:
        return None
    return content if _is_intact(content, job.product_sha256.get(stage)) else None


def read_result(read: Callable[[str], bytes], job: Job) -> bytes:
    """`read` gives a key's content. Raises `TranscriptNotReady`."""
    try:
        content = read(job.result_key or "")
    except FileNotFoundError:
        raise TranscriptNotReady("the transcript is gone: its file is no longer in the file store; send the recording again") from None
    if not _is_intact(content, job.result_sha256):
        raise TranscriptNotReady("the transcript was damaged in the file store (its checksum is another): send the recording again")
    return content


def write_result(files: FileStore, job_id: str, attempt: int, content: bytes) -> StoredFile:
    """May be repeated with the same content.

    Redis restored from an older copy counts a job's attempts anew, so that there may be a result under the attempt's name already. It
    stays as it is, since the attempt's twin may hold it; this one gets a name that its content makes its own.
    """
    try:
        return files.write_once(result_key(job_id, attempt), content)
    except FileExistsError:
        return files.write_once(result_key(job_id, attempt, sha256(content).hexdigest()[:16]), content)


def upload_of(files: FileStore, source: str | None) -> str | None:
    """The key of the upload that is a job's source, where a client brought it by a signed address."""
    key = files.key_of(source) if source else None
    return key if key and key.startswith(f"{UPLOADS}/") and key.count("/") == 1 else None


def delete_all(files: FileStore, job_id: str, source: str | None) -> None:
    """May be repeated, as all here; all raise `StorageUnavailable`."""
    files.delete_job(job_id)
    _delete_upload(files, source)


def delete_inputs(files: FileStore, job_id: str, source: str | None) -> None:
    files.delete(input_key(job_id))
    _delete_under(files, f"{JOBS}/{job_id}/fetches")
    _delete_upload(files, source)


def delete_products(files: FileStore, job_id: str, result_key: str | None) -> None:
    """With them what attempts have left that did not win."""
    for file in files.listed(f"{JOBS}/{job_id}"):
        if is_product(file.key) or (is_result(file.key) and file.key != result_key):
            files.delete(file.key)


def _is_intact(content: bytes, digest: str | None) -> bool:
    """What was written before digests were kept is believed."""
    return not digest or sha256(content).hexdigest() == digest


def _delete_upload(files: FileStore, source: str | None) -> None:
    if key := upload_of(files, source):
        files.delete(key)


def _delete_under(files: FileStore, folder: str) -> None:
    for file in files.listed(folder):
        files.delete(file.key)
