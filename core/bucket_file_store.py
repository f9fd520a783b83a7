"""The file store in a bucket of Google Cloud Storage; files still grow, and are read by ffmpeg, on this machine."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from time import monotonic
from uuid import uuid4

from core.crash_points import passed
from core.errors import DiskFull, ObjectRefused, StorageUnavailable
from core.file_store import JOBS, KEY, PROBE_KEY, Listed, checked, never
from core.gcs import CloudStorage
from core.gs_address import Place
from core.log import logger
from core.partial_file import FOLDER, PartialFile, StoredFile, prepare, refusals_said, written

log = logger("core.bucket_file_store")
GOOD_FOR_S = 60.0  # a bucket that could be written is asked again after this long, if anybody wants to know, …
BAD_FOR_S = 5.0  # … and one that could not be, sooner
READS = 5  # of a file that others write over or delete
CONTENT_TYPE = "application/octet-stream"
UPLOAD_HEADERS = {"x-goog-resumable": "start", "x-goog-if-generation-match": "0"}  # signed: they must be sent as they are


class BucketFileStore:
    """An upload grows on this machine's disk and goes to the bucket when it is kept.

    So ffmpeg probes it where it lies and what is refused never travels; a break half-way is repaired from the file.
    """

    def __init__(self, storage: CloudStorage, root: Place, scratch: Path) -> None:
        """`scratch` is where files grow, and where copies for ffmpeg are made."""
        self._storage, self._root, self._scratch = storage, root, scratch
        self._verdict = Verdict(self._probe)
        prepare(scratch)

    def start(self, key: str) -> PartialFile:
        return PartialFile(key, self._scratch, partial(self._settle, self.place(key)))

    def write(self, key: str, content: bytes, *, durable: bool = True) -> StoredFile:  # noqa: ARG002 - a bucket knows no less
        return written(self.start(key), content)

    def write_once(self, key: str, content: bytes) -> StoredFile:
        return written(PartialFile(key, self._scratch, partial(self._settle, self.place(key), replaces=False)), content)

    def read(self, key: str) -> bytes:
        for _ in range(READS):
            content = BytesIO()
            with suppress(ObjectRefused):  # written over or deleted in that moment: what there is now is read, or missed
                self._storage.download(self.place(key), content.write)
                return content.getvalue()
        raise StorageUnavailable(f"{self.place(key)} changes whenever it is read")

    @contextmanager
    def local_copy(self, key: str, check: Callable[[], None] = never) -> Iterator[Path]:
        copy = self._scratch / FOLDER / uuid4().hex
        try:
            with refusals_said(), copy.open("xb") as file:
                self._storage.download(self.place(key), file.write, check=check)
            passed("copied", key)
            yield copy
        finally:
            copy.unlink(missing_ok=True)

    def delete(self, key: str) -> None:
        self._storage.delete(self.place(key))

    def delete_job(self, job_id: str) -> None:
        self._storage.delete_under(self.place(f"{JOBS}/{job_id}"))

    def listed(self, folder: str) -> Iterator[Listed]:
        for stored in self._storage.listed(self.place(folder)):
            if key := self.key_of(str(stored.place)):
                yield Listed(key, stored.size_bytes, stored.stored_at)

    def key_of(self, address: str) -> str | None:
        key = address.removeprefix(f"{self._root.under('')}")
        return key if key != address and KEY.fullmatch(key) else None

    def tidy(self) -> None:
        prepare(self._scratch)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._scratch).free

    def fault(self) -> str | None:
        try:
            self.start(PROBE_KEY).discard()
        except (OSError, DiskFull):
            return "the folder for uploads under way cannot be written"
        return self._verdict.latest()

    def signed_upload(self, key: str, *, expires_s: float) -> str:
        """Where a client begins a resumable upload by itself: a POST with `UPLOAD_HEADERS` and `CONTENT_TYPE`, whose answer's
        Location takes the bytes.

        It replaces nothing. Raises `StorageDenied` for credentials that cannot sign.
        """
        headers = {**UPLOAD_HEADERS, "content-type": CONTENT_TYPE}
        return self._storage.signed_url(self.place(key), "POST", expires_s=expires_s, headers=headers)

    def signed_download(self, key: str, *, expires_s: float) -> str:
        """Raises `StorageDenied` for credentials that cannot sign."""
        return self._storage.signed_url(self.place(key), "GET", expires_s=expires_s, headers={})

    def place(self, key: str) -> Place:
        return self._root.under(checked(key))

    def _settle(self, place: Place, path: Path, *, replaces: bool = True) -> None:
        with path.open("rb") as content:
            self._storage.upload(place, content, replaces=replaces)

    def _probe(self) -> None:
        self._storage.upload(self.place(PROBE_KEY), BytesIO(), replaces=True)


class Verdict:
    """Whether something works, as last found out by a thread of its own: asking for it waits for nobody."""

    def __init__(self, probe: Callable[[], None]) -> None:
        self._probe, self._lock = probe, threading.Lock()
        self._latest: str | None = "the bucket has not answered yet"
        self._asks, self._ask_at = False, 0.0

    def latest(self) -> str | None:
        with self._lock:
            if not self._asks and monotonic() >= self._ask_at:
                self._asks = True
                threading.Thread(target=self._ask, name="bucket-probe", daemon=True).start()
            return self._latest

    def _ask(self) -> None:
        found: str | None = "the bucket cannot be written"
        try:
            self._probe()
            found = None
        except (StorageUnavailable, OSError) as error:
            log.error("bucket cannot be written", reason=str(error))
        finally:
            with self._lock:
                self._latest, self._asks = found, False
                self._ask_at = monotonic() + (BAD_FOR_S if found else GOOD_FOR_S)
