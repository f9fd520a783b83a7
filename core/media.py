"""Probing and decoding, the one place that runs ffmpeg: fixed arguments, no network, formats by allow list."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Media:
    duration_s: float


class Ffmpeg:
    """Wraps the ffmpeg program; it needs no ffprobe, since static builds often come without one."""

    def __init__(self, program: str) -> None:
        self._program = program

    def version(self) -> str:
        """Raises `OurError` when there is no ffmpeg."""
        return self._run(["-version"], TIMEOUT_FLOOR_S).stdout.decode(errors="replace").split("\n")[0]

    def probe(self, path: Path, *, timeout_s: float = 600.0) -> Media:
        """Duration by reading every packet of the first audio stream: headers lie or are missing. Raises `InvalidMedia`."""
        done = self._run([*_input(path), "-map", "0:a:0", "-c", "copy", "-f", "null", "-progress", "pipe:1", "-"], timeout_s)
        if done.returncode != 0:
            raise InvalidMedia(_complaint(done.stderr.decode(errors="replace"), path))
        return Media(duration_s=_last_time_s(done.stdout.decode(errors="replace")))

    def decode(self, path: Path, *, start_s: float | None = None, end_s: float | None = None, timeout_s: float = 3600.0) -> bytes:
        """The first audio stream as float32 little-endian, mono, 16 kHz; what is broken inside is skipped. Raises `InvalidMedia`."""
        clip = [*(["-ss", str(start_s)] if start_s else []), *(["-to", str(end_s)] if end_s is not None else [])]
        output = ["-map", "0:a:0", "-vn", "-sn", "-dn", "-ac", "1", "-ar", str(SAMPLE_RATE), "-f", "f32le", "-"]
        done = self._run([*clip, *_input(path), *output], timeout_s)
        if done.returncode != 0 and not done.stdout:
            raise InvalidMedia(_complaint(done.stderr.decode(errors="replace"), path))
        return done.stdout

    def _run(self, arguments: list[str], timeout_s: float) -> "subprocess.CompletedProcess[bytes]":
        command = [self._program, "-hide_banner", "-nostdin", "-loglevel", "error", *arguments]
        try:
            return subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
        except FileNotFoundError as error:
            raise OurError(f"there is no ffmpeg at {self._program!r}: install it, or set SPILLWAY_FFMPEG") from error
        except subprocess.TimeoutExpired as error:
            raise InvalidMedia(f"the recording was not decoded within {timeout_s:.0f} s") from error


def _input(path: Path) -> list[str]:
    return ["-protocol_whitelist", "file,pipe", "-format_whitelist", FORMATS, "-i", f"file:{path}"]


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
