"""Files over HTTP into one folder: taken up where a cut transfer stopped, and never more than the disk holds."""

import contextlib
import errno
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from core.errors import DiskFull, ModelMissing, ModelSourceAway

MARGIN_BYTES = 1 << 20  # for the lock and the folders
TRIES_WITHOUT_PROGRESS = 4
RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})

Report = Callable[[str, int, int | None], None]
"""(label, bytes so far, bytes in all)"""


@dataclass(frozen=True)
class Transfer:
    """A file on its way: it grows under `name` in the downloader's folder and is taken up again there."""

    name: str
    label: str
    bytes: int
    there_bytes: int


class Downloader:
    """Keeps what it has of each file in `folder`, so that the next run takes it up."""

    def __init__(
        self,
        folder: Path,
        client: httpx.Client,
        *,
        report: Report = lambda *_: None,
        free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
        retry_delay_s: float = 1.0,
    ) -> None:
        self.folder = folder
        self.client = client
        self._report = report
        self._free_bytes = free_bytes
        self._retry_delay_s = retry_delay_s

    def fetch(self, url: str, name: str, *, label: str, total: int | None = None, headers: Mapping[str, str] | None = None) -> Path:
        """The file's path once it is whole. Raises `httpx.HTTPStatusError` for an answer that no retry would mend."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        tries = 0
        while not self._is_whole(path, total):
            before = _size(path)
            try:
                self._stream(url, path, label, total, dict(headers or {}))
                break
            except httpx.TransportError as error:
                tries = tries + 1 if _size(path) <= before else 0
                if tries == TRIES_WITHOUT_PROGRESS:
                    raise _unreachable(url, error) from error
                time.sleep(self._retry_delay_s * 2**tries)
        self._report(label, _size(path), total)
        return path

    @contextlib.contextmanager
    def room_for(self, needed_bytes: int, what: str) -> Iterator[None]:
        """Raises `DiskFull` beforehand if the disk cannot hold it, and when it fills up meanwhile."""
        free = self._free_bytes(self.folder)
        if needed_bytes + MARGIN_BYTES > free:
            raise _disk_full(self.folder, what, needed_bytes, free)
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise _disk_full(self.folder, what, needed_bytes, self._free_bytes(self.folder)) from error

    def transfer(self, name: str, label: str, total: int) -> Transfer:
        return Transfer(name, label, total, min(_size(self.folder / name), total))

    def _is_whole(self, path: Path, total: int | None) -> bool:
        return total is not None and _size(path) == total

    def _stream(self, url: str, path: Path, label: str, total: int | None, headers: dict[str, str]) -> None:
        have = _size(path) if total is not None and _size(path) < total else 0
        # identity: a range counts the bytes of the file, not of a compressed answer
        headers |= {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with self.client.stream("GET", url, headers=headers) as response:
            if response.status_code in RETRIED_STATUS:
                raise httpx.ReadError(f"status {response.status_code}")
            response.raise_for_status()
            resumed = response.headers.get("Content-Range", "").startswith(f"bytes {have}-") and response.status_code == 206
            with path.open("ab" if resumed else "wb") as out:
                for chunk in response.iter_raw():
                    out.write(chunk)
                    self._report(label, out.tell(), total)


def address(url: str) -> str:
    """A URL fit for messages: without credentials and query."""
    parsed = httpx.URL(url)
    return f"{parsed.scheme}://{parsed.host}{f':{parsed.port}' if parsed.port else ''}{parsed.path}"


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e6 else f"{count:,} bytes"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _unreachable(url: str, error: Exception) -> ModelMissing:
    return ModelSourceAway(
        f"cannot download {address(url)} ({error or type(error).__name__}): check the network and the proxy; another try goes on where it "
        "stopped. Or copy the model folder from a machine that has it"
    )


def _disk_full(folder: Path, what: str, needed: int, free: int) -> DiskFull:
    return DiskFull(
        f"no room for {what}: it needs {megabytes(needed)} and {folder.parent} has {megabytes(free)} free: "
        "make room, or set SPILLWAY_MODEL_DIR (or --model-dir) to a folder on a larger disk"
    )
