"""Where a source comes down: counted, bounded, and kept between two tries so that the second can go on."""

from collections.abc import Callable
from pathlib import Path

from core.errors import DiskFull, SourceTooLarge
from core.file_store import SPARE_BYTES, FileStore
from core.partial_file import PartialFile, StoredFile

ROOM_CHECK_BYTES = 16 * 1024**2

# Brings a source down. Raises `Interrupted` when another try may do better, `CallerError` when none will; it calls the
# last argument at least every second, and lets out what that raises.
Fetch = Callable[[str, "Landing", Callable[[], None]], None]


class Interrupted(Exception):
    """The source did not come this time; `after_s` is when its server wants to be asked again."""

    def __init__(self, message: str, *, after_s: float = 0.0) -> None:
        super().__init__(message)
        self.after_s = after_s


class Landing:
    def __init__(self, files: FileStore, key: str, *, max_bytes: int) -> None:
        self._files, self._key, self._max_bytes = files, key, max_bytes
        self._file: PartialFile | None = None
        self.validator = ""  # says which version of the source the bytes are from; empty when they cannot be continued

    @property
    def key(self) -> str:
        return self._key

    @property
    def arrived_bytes(self) -> int:
        return self._file.bytes if self._file else 0

    def begin(self, validator: str = "") -> None:
        """From the first byte; what came before is gone. Raises `DiskFull`."""
        self.discard()
        self._check_room(0)
        self._file, self.validator = self._files.start(self._key), validator

    def expect(self, more: int) -> None:
        """Before so many more bytes are asked for. Raises `SourceTooLarge`, `DiskFull`."""
        if self.arrived_bytes + more > self._max_bytes:
            raise SourceTooLarge(f"the source is larger than {self._max_bytes} bytes, the most that is taken here: compress the recording")
        self._check_room(more)

    def write(self, chunk: bytes) -> None:
        """Raises `SourceTooLarge`, `DiskFull`."""
        assert self._file is not None
        before, after = self.arrived_bytes, self.arrived_bytes + len(chunk)
        if after > self._max_bytes or before // ROOM_CHECK_BYTES < after // ROOM_CHECK_BYTES:
            self.expect(len(chunk))
        self._file.write(chunk)

    def path(self) -> Path:
        """Where ffmpeg can read what has come. Raises `DiskFull`."""
        assert self._file is not None
        return self._file.path()

    def keep(self) -> StoredFile:
        """Durable once this returns; may be repeated when it raised. Raises `DiskFull`, `StorageUnavailable`."""
        assert self._file is not None
        stored, self._file = self._file.keep(), None
        return stored

    def discard(self) -> None:
        if self._file:
            self._file.discard()
        self._file, self.validator = None, ""

    def _check_room(self, more: int) -> None:
        if self._files.free_bytes() < more + SPARE_BYTES:
            raise DiskFull(f"the file store has no room for {more} more bytes of a source")
