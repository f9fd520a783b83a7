"""One run of ffmpeg: confined (`core/confine.py`), in an empty folder of its own, bounded by time and by what comes out."""

import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from tempfile import TemporaryDirectory
from time import monotonic

from core.confine import DOES_NOT_START
from core.confined_process import ConfinedProcess, confined
from core.errors import InvalidMedia, OurError

CHECK_PERIOD_S = 0.25  # a cancel is heard of within the second
PIECE_BYTES = 64 * 1024  # what a pipe of Linux holds
SAID_BYTES = 64 * 1024  # of complaints; a recording with broken time stamps makes one per packet

CAUGHT_A_SIGNAL = 255  # ffmpeg's exit code when SIGTERM, SIGINT or SIGXCPU came: it takes them as a wish to end early
DID_NOT_START = (DOES_NOT_START, 127)  # 127: the loader, when a library is missing
CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS)
BUSY_THREADS = 4  # demuxing, decoding, resampling and writing each have one: the clock, which says why, is to end ffmpeg first
END_S = 60.0  # from the end of its output to its own
CONVERT = "convert it, for example to FLAC, and send that"


def nothing() -> None:
    """For callers that never give up."""


@dataclass(frozen=True)
class Bounds:
    """`check` is called about every 0.25 s; what it raises ends ffmpeg and goes on to the caller."""

    timeout_s: float
    most_bytes: int | None = None
    check: Callable[[], None] = nothing


@dataclass(frozen=True)
class Ended:
    code: int
    output: bytes
    said: str


def run(program: str, arguments: list[str], source: Path | None, bounds: Bounds) -> Ended:
    """With `source` on its standard input. Raises `InvalidMedia` and `OurError`."""
    with _started(program, arguments, source, cpu_s=math.ceil(bounds.timeout_s * BUSY_THREADS)) as process:
        output, said = _collected(process, bounds.most_bytes, _watch(bounds.check, bounds.timeout_s))
        code = process.wait(END_S)
    ended = Ended(code, output, said.decode(errors="replace"))
    _check_end(ended, decoding=source is not None)
    return ended


@contextmanager
def _started(program: str, arguments: list[str], source: Path | None, *, cpu_s: int) -> Iterator[ConfinedProcess]:
    found = shutil.which(program)
    if found is None:
        raise OurError(f"there is no ffmpeg at {program!r}: install it, or set SPILLWAY_FFMPEG")
    with (
        TemporaryDirectory(prefix="ffmpeg-") as folder,
        _opened(source) as stdin,
        confined(os.path.abspath(found), arguments, stdin, folder=folder, cpu_s=cpu_s) as process,
    ):
        yield process


@contextmanager
def _opened(source: Path | None) -> Iterator[int]:
    try:
        descriptor = os.open(source or os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise OurError(f"{source} is not in the file store any more") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _watch(check: Callable[[], None], timeout_s: float) -> Callable[[], None]:
    deadline = monotonic() + timeout_s

    def watch() -> None:
        check()
        if monotonic() > deadline:
            raise InvalidMedia(f"the recording was not decoded within {timeout_s:.0f} s: {CONVERT}")

    return watch


def _collected(process: ConfinedProcess, most_bytes: int | None, watch: Callable[[], None]) -> tuple[bytes, bytes]:
    """Output and complaints. Counts bytes, for ffmpeg's own `-t` goes by the time stamps that may lie. Raises `InvalidMedia`."""
    output, said = BytesIO(), bytearray()  # BytesIO gives its buffer away uncopied: half the memory of joining pieces
    for fd, piece in _pieces(process, watch):
        if fd == process.said:
            said += piece[: SAID_BYTES - len(said)]
            continue
        output.write(piece)
        if most_bytes is not None and output.tell() > most_bytes:
            raise InvalidMedia(f"the recording is longer than its own time stamps say: {CONVERT}")
    return output.getvalue(), bytes(said)


def _pieces(process: ConfinedProcess, watch: Callable[[], None]) -> Iterator[tuple[int, bytes]]:
    """What comes out of either pipe, by its descriptor, until both end; `watch` is called whether something comes or not."""
    watched = monotonic()
    with DefaultSelector() as pipes:
        for pipe in (process.output, process.said):
            pipes.register(pipe, EVENT_READ)
        while pipes.get_map():
            for key, _ in pipes.select(CHECK_PERIOD_S):
                if piece := os.read(key.fd, PIECE_BYTES):
                    yield key.fd, piece
                else:
                    pipes.unregister(key.fd)
            if monotonic() - watched >= CHECK_PERIOD_S:
                watch()
                watched = monotonic()


def _check_end(ended: Ended, *, decoding: bool) -> None:
    """An ffmpeg that was ended leaves half a recording, which must not pass for a whole one. Raises `OurError`, `InvalidMedia`."""
    code = ended.code
    if code in DID_NOT_START:
        raise OurError(f"ffmpeg does not start: {ended.said.strip()}")
    if decoding and -code in CRASHES:
        raise InvalidMedia(f"the recording makes the decoder fail ({signal.Signals(-code).name}): {CONVERT}")
    if code < 0 or code == CAUGHT_A_SIGNAL:
        raise OurError(f"ffmpeg was ended by {signal.Signals(-code).name if code < 0 else 'a signal that it caught'}")
