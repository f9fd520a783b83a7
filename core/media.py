"""Probing and decoding, the one place that runs ffmpeg: fixed arguments, no network, formats by allow list, bounded by time and size."""

import math
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from time import monotonic

from core.errors import InvalidMedia, OurError

SAMPLE_RATE = 16_000  # Hz, what every model of the engine takes
BYTES_PER_SAMPLE = 4  # float32

# Demuxers of real recordings. Playlists, concatenations and everything else that names other files are not among them:
# a protocol list alone did not stop an upload that held ffconcat text (it read a sibling file).
FORMATS = (
    "wav,w64,aiff,au,caf,flac,ogg,mp3,aac,ac3,eac3,amr,amrnb,amrwb,asf,avi,flv,matroska,webm,mov,mp4,m4a,3gp,mpeg,mpegts,mpegvideo,"
    "tta,wv,ape,opus,gsm,loas,aa,adts,alaw,mulaw"
)
TIMEOUT_FLOOR_S = 60.0
MOST_S = 24 * 3600.0  # of output for callers that know no better: 5.5 GB
LAST_S = 1e9  # clip times are cut off here, in 31 years: ffmpeg refuses what 64 bits of microseconds do not hold
CHECK_PERIOD_S = 0.25  # a cancel is heard of within the second
PIECE_BYTES = 64 * 1024  # what a pipe of Linux holds
SAID_BYTES = 64 * 1024  # of complaints; a recording with broken time stamps makes one per packet

# 33 MB are enough for an MP3 (`/usr/bin/time -v`), but address space counts each thread's stack and arena (72 MB) as well.
ADDRESS_SPACE_BYTES = 4 * 1024**3
FILE_BYTES = 0  # it writes to pipes and nowhere else
CAUGHT_A_SIGNAL = 255  # ffmpeg's exit code when SIGTERM, SIGINT or SIGXCPU came: it takes them as a wish to end early


@dataclass(frozen=True)
class Media:
    duration_s: float


@dataclass(frozen=True)
class _Ended:
    code: int
    output: bytes
    said: str


def _nothing() -> None:
    """For callers that never give up."""


class Ffmpeg:
    """Wraps the ffmpeg program; it needs no ffprobe, since static builds often come without one."""

    def __init__(self, program: str) -> None:
        self._program = program

    def version(self) -> str:
        """Raises `OurError` when there is no ffmpeg."""
        return self._run(["-version"], TIMEOUT_FLOOR_S).output.decode(errors="replace").split("\n")[0]

    def listed(self, kind: str) -> frozenset[str]:
        """Names that this build has of a kind: `protocols`, `demuxers`, `decoders`, `filters`. Raises `OurError`."""
        rows = [line.split() for line in self._run([f"-{kind}"], TIMEOUT_FLOOR_S).output.decode(errors="replace").splitlines()]
        # A protocol stands alone on its line; the others behind their flags, those of one demuxer joined by commas.
        return frozenset(name for row in rows if row for name in row[min(1, len(row) - 1)].split(","))

    def probe(self, path: Path, *, timeout_s: float = 600.0) -> Media:
        """Duration by the time stamps of every packet of the first audio stream: headers lie or are missing. Raises `InvalidMedia`.

        Time stamps can lie too, and only decoding shows it: whoever decodes bounds what comes out by `most_s`.
        """
        done = self._run([*_input(path), "-map", "0:a:0", "-c", "copy", "-f", "null", "-progress", "pipe:1", "-"], timeout_s)
        if done.code != 0:
            raise InvalidMedia(_complaint(done.said, path))
        return Media(duration_s=_last_time_s(done.output.decode(errors="replace")))

    def decode(
        self,
        path: Path,
        *,
        start_s: float | None = None,
        end_s: float | None = None,
        most_s: float = MOST_S,
        check: Callable[[], None] = _nothing,
        timeout_s: float = 3600.0,
    ) -> bytes:
        """The first audio stream as float32 little-endian, mono, 16 kHz; what is broken inside is skipped.

        Raises `InvalidMedia`, also when more than `most_s` seconds come out, and `OurError` when ffmpeg did not end by itself.
        `check` is called about every 0.25 s; what it raises ends ffmpeg and goes on to the caller.
        """
        clip = [*_option("-ss", start_s or None), *_option("-to", end_s)]
        # Audio that begins late or has gaps keeps its times: they are filled with silence.
        whole = ["-af", "aresample=async=1:first_pts=0"]
        output = [*whole, "-map", "0:a:0", "-vn", "-sn", "-dn", "-ac", "1", "-ar", str(SAMPLE_RATE), "-f", "f32le", "-"]
        most_bytes = math.ceil(most_s * SAMPLE_RATE) * BYTES_PER_SAMPLE
        done = self._run([*clip, *_input(path), *output], timeout_s, most_bytes=most_bytes, check=check)
        if done.code != 0 and not done.output:
            raise InvalidMedia(_complaint(done.said, path))
        return done.output

    def _run(
        self, arguments: list[str], timeout_s: float, *, most_bytes: int | None = None, check: Callable[[], None] = _nothing
    ) -> _Ended:
        with self._started(arguments) as process:
            try:
                _limit(process.pid, cpu_s=timeout_s)
                output, said = _collected(process, most_bytes, _watch(check, timeout_s))
                code = process.wait(timeout=TIMEOUT_FLOOR_S)
            finally:
                process.kill()  # nothing once it has ended; leaving the block waits for it
        _check_end(code)
        return _Ended(code, output, said.decode(errors="replace"))

    def _started(self, arguments: list[str]) -> "subprocess.Popen[bytes]":
        command = [self._program, "-hide_banner", "-nostdin", "-loglevel", "error", *arguments]
        try:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except FileNotFoundError as error:
            raise OurError(f"there is no ffmpeg at {self._program!r}: install it, or set SPILLWAY_FFMPEG") from error


def _limit(pid: int, *, cpu_s: float) -> None:
    """From outside, since code between fork and exec is unsafe beside threads; what ffmpeg does before is only to start.

    The processor time is what ends an ffmpeg whose parent died and left nobody to watch the clock.
    """
    limits = {resource.RLIMIT_CPU: math.ceil(cpu_s), resource.RLIMIT_AS: ADDRESS_SPACE_BYTES, resource.RLIMIT_FSIZE: FILE_BYTES}
    with suppress(ProcessLookupError):  # it has ended already
        for kind, most in limits.items():
            _, hard = resource.prlimit(pid, kind)
            allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)  # a container's own limit cannot be raised
            resource.prlimit(pid, kind, (allowed, allowed))


def _watch(check: Callable[[], None], timeout_s: float) -> Callable[[], None]:
    deadline = monotonic() + timeout_s

    def watch() -> None:
        check()
        if monotonic() > deadline:
            raise InvalidMedia(f"the recording was not decoded within {timeout_s:.0f} s")

    return watch


def _collected(process: "subprocess.Popen[bytes]", most_bytes: int | None, watch: Callable[[], None]) -> tuple[bytes, bytes]:
    """Output and complaints. Counts bytes, for ffmpeg's own `-t` goes by the time stamps that may lie. Raises `InvalidMedia`."""
    output, said = BytesIO(), bytearray()  # BytesIO gives its buffer away uncopied: half the memory of joining pieces
    for fd, piece in _pieces(process, watch):
        if process.stderr is not None and fd == process.stderr.fileno():
            said += piece[: SAID_BYTES - len(said)]
            continue
        output.write(piece)
        if most_bytes is not None and output.tell() > most_bytes:
            raise InvalidMedia("the recording is longer than its own time stamps say: convert it, for example to FLAC, and send that")
    return output.getvalue(), bytes(said)


def _pieces(process: "subprocess.Popen[bytes]", watch: Callable[[], None]) -> Iterator[tuple[int, bytes]]:
    """What comes out of either pipe, by its descriptor, until both end; `watch` is called whether something comes or not."""
    watched = monotonic()
    with DefaultSelector() as pipes:
        for pipe in filter(None, (process.stdout, process.stderr)):
            pipes.register(pipe.fileno(), EVENT_READ)
        while pipes.get_map():
            for key, _ in pipes.select(CHECK_PERIOD_S):
                if piece := os.read(key.fd, PIECE_BYTES):
                    yield key.fd, piece
                else:
                    pipes.unregister(key.fd)
            if monotonic() - watched >= CHECK_PERIOD_S:
                watch()
                watched = monotonic()


def _check_end(code: int) -> None:
    """An ffmpeg that was ended leaves half a recording, which must not pass for a whole one. Raises `OurError`."""
    if code < 0 or code == CAUGHT_A_SIGNAL:
        raise OurError(f"ffmpeg was ended by {signal.Signals(-code).name if code < 0 else 'a signal that it caught'}")


def _input(path: Path) -> list[str]:
    return ["-protocol_whitelist", "file,pipe", "-format_whitelist", FORMATS, "-i", f"file:{path}"]


def _option(name: str, time_s: float | None) -> list[str]:
    """Without an exponent, which ffmpeg does not read."""
    return [] if time_s is None else [name, f"{min(time_s, LAST_S):.6f}"]


def _last_time_s(progress: str) -> float:
    times = [line.partition("=")[2] for line in progress.splitlines() if line.startswith("out_time_us=")]
    return max((int(time) / 1e6 for time in times if time.lstrip("-").isdigit()), default=0.0)


def _complaint(said: str, path: Path) -> str:
    """ffmpeg's own words made fit to show, without our paths."""
    if "matches no streams" in said:
        return "the file holds no audio: send a recording, or a video with a sound track"
    if "Invalid data" in said or "not in allowed list" in said or "whitelist" in said:
        return "the file is not a recording that can be decoded: send WAV, MP3, FLAC, Ogg, M4A, MP4, WebM or another common format"
    first = (
        next((line for line in said.splitlines() if line.strip()), "no reason given")
        .replace(f"file:{path}", "the file")
        .replace(str(path), "the file")
    )
    return f"the recording cannot be decoded: {first}"
