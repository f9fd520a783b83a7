"""Where uploads, stage products and transcripts are: one contract, kept by a local volume and by a bucket (`core.storage` opens one)."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from core.partial_file import PartialFile, StoredFile

KEY = re.compile(r"[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*")  # our own names only: nothing that a client sends is a path
FOLDERS = JOBS, UPLOADS, PROBES = "jobs", "uploads", "probes"
PROBE_KEY = f"{PROBES}/readiness"
SPARE_BYTES = 64 * 1024**2  # room that whoever stores a recording leaves to everybody else


def never() -> None:
    """For callers that never give up."""


@dataclass(frozen=True)
class Listed:
    key: str
    bytes: int
    stored_at: float  # seconds since the epoch


class FileStore(Protocol):
    """Whatever is there is whole and, but for stage products, durable.

    What goes wrong is a `DiskFull`, `StorageUnavailable` or `StorageDenied`.
    """

    def start(self, key: str) -> PartialFile:
        """A file that grows on this machine and is seen by others once it is kept; it replaces what is there."""

    def write(self, key: str, content: bytes, *, durable: bool = True) -> StoredFile:
        """What is there is replaced whole. What is not durable may be gone or torn after a power cut: its digest tells."""

    def write_once(self, key: str, content: bytes) -> StoredFile:
        """Of two writers one wins; the same content again is no error. Raises `FileExistsError` when other content is there.

        For what belongs to a job that has a record, hence a recording that was stored before.
        """

    def read(self, key: str) -> bytes:
        """Raises `FileNotFoundError`."""

    def local_copy(self, key: str, check: Callable[[], None] = never) -> AbstractContextManager[Path]:
        """Where ffmpeg can read it, for as long as the block lasts. Raises `FileNotFoundError`.

        `check` is called now and then where a copy is made; what it raises ends the copying and goes on to the caller.
        """

    def delete(self, key: str) -> None:
        """No error where nothing is."""

    def delete_job(self, job_id: str) -> None: ...

    def listed(self, folder: str) -> Iterator[Listed]:
        """Every file under it, none if there is no such folder; what comes or goes meanwhile may be among them or not."""

    def key_of(self, address: str) -> str | None:
        """The key of the file that a gs:// address names, if it is one of this store."""

    def tidy(self) -> None:
        """Takes away what processes that were killed have left half-written on this machine, once nobody can be writing it."""

    def free_bytes(self) -> int:
        """Room on this machine for files that grow."""

    def fault(self) -> str | None:
        """Why nothing can be stored at the moment, as last heard; never waits for another machine."""


def checked(key: str) -> str:
    if not KEY.fullmatch(key):
        raise ValueError(f"not a key of the file store: {key!r}")
    return key


def upload_key(upload_id: str) -> str:
    """What a client brings by itself, by a signed address: nobody else can guess the name."""
    return f"{UPLOADS}/{upload_id}"


def input_key(job_id: str) -> str:
    return f"jobs/{job_id}/input"


def fetched_key(job_id: str, token: int) -> str:
    """Under the fetch's own token: one that lost its lease overwrites nobody."""
    return f"jobs/{job_id}/fetches/{token}/input"


def product_key(job_id: str, attempt: int, stage: str) -> str:
    return f"jobs/{job_id}/products/{attempt}-{stage}.json"


def result_key(job_id: str, attempt: int, of_content: str = "") -> str:
    """Under the attempt's own name: a runner that lost its lease overwrites nobody."""
    return f"jobs/{job_id}/transcript-{attempt}{of_content and '-' + of_content}.json"


def claim_key(job_id: str, attempt: int) -> str:
    """Whose the attempt is, outside this box: what one runner writes once, no other passes."""
    return f"jobs/{job_id}/claim-{attempt}"


def is_product(key: str) -> bool:
    return "/products/" in key


def is_result(key: str) -> bool:
    return "/transcript-" in key
