"""Google Cloud Storage, the one place that talks to it: streams both ways, checksums, preconditions, bounded patience."""

import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from typing import IO, Any

import google_crc32c
from google.auth.transport.requests import Request
from google.cloud.storage import Client
from google.cloud.storage.retry import DEFAULT_RETRY

from core.crash_points import passed
from core.errors import BucketDenied, ObjectRefused, StorageDenied, StorageUnavailable
from core.file_store import never
from core.gcs_errors import FOREIGN, no_bucket, translated
from core.gcs_key import credentials_of
from core.gs_address import Place

PIECE_BYTES = 8 * 1024**2  # of one ranged read, and of one step of a resumable upload: what a break costs, and what is in memory


@dataclass(frozen=True)
class Patience:
    connect_s: float = 10.0
    silence_s: float = 30.0  # between two packets
    tries_s: float = 30.0  # for one request with all its repeats


@dataclass(frozen=True)
class Found:
    """One version of an object."""

    size_bytes: int
    generation: str
    crc32c: bytes


@dataclass(frozen=True)
class Stored:
    place: Place
    size_bytes: int
    stored_at: float  # seconds since the epoch, by Google's clock


class CloudStorage:
    """Everything is found out at the first use, since finding credentials may take a machine's network.

    Raises from every call `StorageUnavailable`, `StorageDenied`, `BucketDenied`; `FileNotFoundError` for an object that is not there.
    """

    def __init__(self, credentials: str | None = None, patience: Patience = Patience()) -> None:
        """`credentials` is a service account's key as JSON, which the settings hold to be one."""
        self._credentials = credentials_of(credentials) if credentials else None
        self._timeout = (patience.connect_s, patience.silence_s)
        self._retry = DEFAULT_RETRY.with_delay(initial=0.2, maximum=5.0, multiplier=2.0).with_timeout(patience.tries_s)
        self._lock = threading.Lock()
        self._made: Client | None = None

    def close(self) -> None:
        with self._lock:
            if self._made is not None:
                self._made.close()
                self._made = None

    def upload(self, place: Place, content: IO[bytes], *, replaces: bool, content_type: str = "application/octet-stream") -> None:
        """Resumable from 8 MB on. Raises `FileExistsError` where other content is already; the same content is no error.

        A reply may get lost and its request be repeated: then the object is there, and it is ours.
        """
        try:
            stored = self._sent(place, content, replaces, content_type)
        except (FileExistsError, FileNotFoundError) as error:
            if self._holds(place, content):
                return
            if isinstance(error, FileExistsError):
                raise
            raise StorageUnavailable(f"Google Cloud Storage forgot the upload of {place} half-way") from error
        except BucketDenied:
            if replaces or not self._is_seen_to_hold(place, content):
                raise
            return
        if _digest(stored.crc32c) != crc32c(content):
            self.delete(place)
            raise StorageUnavailable(f"{place} arrived damaged: its checksum is another")
        passed("placed", place.name)

    def download(self, place: Place, write: Callable[[bytes], object], *, check: Callable[[], None] = never) -> None:
        """In pieces of one generation, its checksum held. Raises `ObjectRefused` when the object changes meanwhile."""
        found, arrived = self.look_up(place), google_crc32c.Checksum()
        for piece in self.pieces(place, found, check=check):
            arrived.update(piece)
            write(piece)
        if arrived.digest() != found.crc32c:
            raise StorageUnavailable(f"{place} arrived damaged: its checksum is another")

    def look_up(self, place: Place) -> Found:
        """Raises `ObjectRefused` for an object that Google would unpack on the way, or has no key for."""
        with self._errors(place):
            blob = self._blob(place)
            blob.reload(timeout=self._timeout, retry=self._retry)
        if blob.content_encoding == "gzip":
            raise ObjectRefused(f"{place} is stored with Content-Encoding gzip: store it as it is")
        if blob.crc32c is None:  # https://docs.cloud.google.com/storage/docs/encryption/customer-supplied-keys
            raise ObjectRefused(f"{place} is encrypted with a key that its sender keeps: store it without one, or with one of Cloud KMS")
        return Found(int(blob.size), str(blob.generation), _digest(blob.crc32c))

    def pieces(self, place: Place, found: Found, *, start: int = 0, check: Callable[[], None] = never) -> Iterator[bytes]:
        """From `start` on. What `check`, called with every few bytes, raises ends it. Raises `ObjectRefused` when the object changed."""
        for begin in range(start, found.size_bytes, PIECE_BYTES):
            check()
            yield self._piece(place, found.generation, range(begin, min(begin + PIECE_BYTES, found.size_bytes)), check)

    def delete(self, place: Place) -> None:
        """No error where nothing is."""
        try:
            with self._errors(place):
                self._blob(place).delete(timeout=self._timeout, retry=self._retry)
        except FileNotFoundError:
            return
        passed("deleted", place.name)

    def delete_under(self, folder: Place) -> None:
        for stored in list(self.listed(folder)):
            self.delete(stored.place)

    def listed(self, folder: Place) -> Iterator[Stored]:
        """In pages of a thousand, each asked for when it is needed."""
        with self._errors(folder):
            found = self._client().list_blobs(folder.bucket, prefix=f"{folder.name}/", timeout=self._timeout, retry=self._retry)
            for blob in found:
                yield Stored(Place(folder.bucket, blob.name), int(blob.size), blob.time_created.timestamp())

    def signed_url(self, place: Place, method: str, *, expires_s: float, headers: dict[str, str]) -> str:
        """V4. Raises `StorageDenied` for credentials that cannot sign."""
        signing: dict[str, Any] = {}
        with self._errors(place):
            blob = self._blob(place)
            credentials = self._client()._credentials  # the client's own name for them; there is no public one
            if not hasattr(credentials, "sign_bytes"):
                signing = self._signed_by_google(credentials)
            return str(
                blob.generate_signed_url(
                    version="v4", method=method, expiration=timedelta(seconds=expires_s), headers=headers,
                    api_access_endpoint=self._client().api_endpoint, **signing,
                )
            )  # fmt: skip

    def _sent(self, place: Place, content: IO[bytes], replaces: bool, content_type: str) -> Any:
        """What Google says of the object that it stored."""
        try:
            with self._errors(place):
                blob = self._blob(place)
                blob.upload_from_file(
                    content, rewind=True, size=_size(content), content_type=content_type, checksum="crc32c",
                    if_generation_match=None if replaces else 0, timeout=self._timeout, retry=self._retry,
                )  # fmt: skip
                return blob
        except ValueError as error:  # the client's word for a server that took less of a piece than it was sent
            raise StorageUnavailable(f"the upload of {place} fell out of step: {error}") from error

    def _signed_by_google(self, credentials: Any) -> dict[str, Any]:
        """An attached service account has no key here: Google signs for it (IAM's signBlob)."""
        if not hasattr(credentials, "service_account_email"):
            raise StorageDenied(
                "these credentials cannot sign addresses: set SPILLWAY_GCS_CREDENTIALS_FILE to a service account's key,"
                " or run with a service account that has roles/iam.serviceAccountTokenCreator on itself"
            )
        if not credentials.valid:
            credentials.refresh(Request())
        return {"service_account_email": credentials.service_account_email, "access_token": credentials.token}

    def _piece(self, place: Place, generation: str, span: range, check: Callable[[], None]) -> bytes:
        piece = _Checked(check)
        try:
            with self._errors(place):
                self._blob(place, piece_bytes=None).download_to_file(
                    piece, start=span.start, end=span.stop - 1, if_generation_match=int(generation), raw_download=True, checksum=None,
                    timeout=self._timeout, retry=self._retry,
                )  # fmt: skip
                return piece.getvalue()
        except FileExistsError:
            raise ObjectRefused(f"{place} changed while it was being read: leave it alone until the job has ended") from None

    def _holds(self, place: Place, content: IO[bytes]) -> bool:
        try:
            found = self.look_up(place)
        except FileNotFoundError:
            return False
        return found.size_bytes == _size(content) and found.crc32c == crc32c(content)

    def _is_seen_to_hold(self, place: Place, content: IO[bytes]) -> bool:
        """A name that is taken needs the right to delete on top of the right to create: who has the latter alone may hear of that first."""
        try:
            return self._holds(place, content)
        except BucketDenied:
            return False

    def _blob(self, place: Place, *, piece_bytes: int | None = PIECE_BYTES) -> Any:
        return self._client().bucket(place.bucket).blob(place.name, chunk_size=piece_bytes)

    def _client(self) -> Client:
        with self._lock:
            if self._made is None:
                self._made = Client(project=None, credentials=self._credentials)
            return self._made

    @contextmanager
    def _errors(self, place: Place) -> Iterator[None]:
        try:
            yield
        except FOREIGN as error:
            ours = translated(error, place, getattr(self._credentials, "service_account_email", "this installation's account"))
            if isinstance(ours, FileNotFoundError) and not self._has_bucket(place):
                ours = no_bucket(place)
            raise ours from error

    def _has_bucket(self, place: Place) -> bool:
        """Nothing in the answer for an object tells a bucket that is missing from an object that is."""
        try:
            any(self._client().list_blobs(place.bucket, max_results=1, timeout=self._timeout, retry=self._retry))
        except FOREIGN as error:
            return not isinstance(translated(error, place, ""), FileNotFoundError)
        return True


class _Checked(BytesIO):
    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__()
        self._check = check

    def write(self, chunk: Any) -> int:
        self._check()
        return super().write(chunk)


def _size(content: IO[bytes]) -> int:
    return content.seek(0, 2)


def crc32c(content: IO[bytes], check: Callable[[], None] = never) -> bytes:
    content.seek(0)
    checksum = google_crc32c.Checksum()
    while piece := content.read(PIECE_BYTES):
        check()
        checksum.update(piece)
    return bytes(checksum.digest())


def _digest(base64_text: str) -> bytes:
    return b64decode(base64_text)
