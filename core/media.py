"""Probing and decoding with ffmpeg, the one place that runs it: fixed arguments, formats and decoders by allow list."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from core import confine
from core.errors import InvalidMedia
from core.log import logger
from core.media_process import CONVERT, Bounds, Ended, nothing, run

SAMPLE_RATE = 16_000  # Hz, what every model of the engine takes
BYTES_PER_SAMPLE = 4  # float32

# Demuxers of real recordings. Playlists, concatenations and everything else that names other files are not among them:
# a protocol list alone did not stop an upload that held ffconcat text (it read a sibling file).
FORMATS = (
    "wav,w64,aiff,au,caf,flac,ogg,mp3,aac,ac3,eac3,amr,amrnb,amrwb,asf,avi,flv,matroska,webm,mov,mp4,m4a,3gp,mpeg,mpegts,mpegvideo,"
    "tta,wv,ape,opus,gsm,loas,aa,adts,alaw,mulaw"
)
# Decoders of sound alone: to say what a file holds ffmpeg would else try the decoders of its pictures as well, which are the larger
# half of ffmpeg and of its past holes.
DECODERS = (
    "aac,aac_fixed,aac_latm,ac3,ac3_fixed,adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,adpcm_swf,adpcm_yamaha,alac,amrnb,amrwb,ape,dca,eac3,flac,"
    "g722,g726,g726le,gsm,gsm_ms,ilbc,libgsm,libgsm_ms,libilbc,libopencore_amrnb,libopencore_amrwb,libopus,libspeex,libvorbis,mace3,mace6,"
    "mlp,mp1,mp1float,mp2,mp2float,mp3,mp3float,nellymoser,opus,pcm_alaw,pcm_bluray,pcm_dvd,pcm_f16le,pcm_f24le,pcm_f32be,pcm_f32le,"
    "pcm_f64be,pcm_f64le,pcm_mulaw,pcm_s16be,pcm_s16be_planar,pcm_s16le,pcm_s16le_planar,pcm_s24be,pcm_s24le,pcm_s24le_planar,pcm_s32be,"
    "pcm_s32le,pcm_s32le_planar,pcm_s64be,pcm_s64le,pcm_s8,pcm_s8_planar,pcm_u16be,pcm_u16le,pcm_u24be,pcm_u24le,pcm_u32be,pcm_u32le,"
    "pcm_u8,qcelp,qdm2,s302m,speex,truehd,tta,vorbis,wavpack,wmalossless,wmapro,wmav1,wmav2,wmavoice"
)
# The recording comes on stdin and is opened there once more, so that ffmpeg can seek in it (an MP4's index may stand at its end) and knows
# no folder beside which other files might lie. ffmpeg 6's protocol fd would do without `file`, but the images carry 4.4 and 5.1.
INPUT = "file:/dev/fd/0"

# Of the first audio stream; audio that begins late or has gaps keeps its times: they are filled with silence.
WHOLE = ("-af", "aresample=async=1:first_pts=0", "-map", "0:a:0", "-vn", "-sn", "-dn")

MARGIN, MARGIN_S = 1.05, 5.0  # a recording's own time stamps are off by less, or by a few packets
TIMEOUT_FLOOR_S = 60.0
SLOWEST_READ = 2e6  # bytes per second
SLOWEST_DECODE = 10.0  # times as fast as the sound plays
MOST_S = 24 * 3600.0  # of output for callers that know no better: 5.5 GB
LAST_S = 1e9  # clip times are cut off here, in 31 years: ffmpeg refuses what 64 bits of microseconds do not hold


@dataclass(frozen=True)
class Media:
    duration_s: float


class Ffmpeg:
    """Wraps the ffmpeg program; it needs no ffprobe, since static builds often come without one."""

    def __init__(self, program: str) -> None:
        self._program = program
        if not confine.landlock_version():
            logger("media").warning("ffmpeg can read what this process can: the kernel has no Landlock, or the container forbids it")

    def version(self) -> str:
        """Raises `OurError` when there is no ffmpeg."""
        return self._run(["-version"], None, Bounds(TIMEOUT_FLOOR_S)).output.decode(errors="replace").split("\n")[0]

    def listed(self, kind: str) -> frozenset[str]:
        """Names that this build has of a kind: `protocols`, `demuxers`, `decoders`, `filters`. Raises `OurError`."""
        said = self._run([f"-{kind}"], None, Bounds(TIMEOUT_FLOOR_S)).output.decode(errors="replace")
        rows = [line.split() for line in said.splitlines()]
        # A protocol stands alone on its line; the others behind their flags, those of one demuxer joined by commas.
        return frozenset(name for row in rows if row for name in row[min(1, len(row) - 1)].split(","))

    def probe(self, path: Path, *, timeout_s: float | None = None) -> Media:
        """Duration by the time stamps of every packet of the first audio stream: headers lie or are missing. Raises `InvalidMedia`.

        Time stamps can lie too, and only decoding shows it: whoever decodes bounds what comes out by `most_s`.
        """
        wanted = ["-map", "0:a:0", "-c", "copy", "-f", "null", "-progress", "pipe:1", "-"]
        done = self._run([*_input(), *wanted], path, Bounds(timeout_s or _patience_s(path, 0.0)))
        if done.code != 0:
            raise InvalidMedia(_complaint(done.said))
        return Media(duration_s=_last_time_s(done.output.decode(errors="replace")))

    def decode(
        self,
        path: Path,
        *,
        start_s: float | None = None,
        end_s: float | None = None,
        most_s: float = MOST_S,
        check: Callable[[], None] = nothing,
        timeout_s: float | None = None,
    ) -> bytes:
        """The first audio stream as float32 little-endian, mono, 16 kHz; what is broken inside is skipped.

        Raises `InvalidMedia`, also when more than `most_s` seconds come out, and `OurError` when ffmpeg did not end by itself.
        `check` is called about every 0.25 s; what it raises ends ffmpeg and goes on to the caller.
        """
        wanted = [*WHOLE, "-ac", "1", "-ar", str(SAMPLE_RATE), "-f", "f32le", "-"]
        most_bytes = math.ceil(most_s * SAMPLE_RATE) * BYTES_PER_SAMPLE
        bounds = Bounds(timeout_s or _patience_s(path, most_s), most_bytes, check)
        return self._converted([*_clip(start_s, end_s), *_input(), *wanted], path, bounds)

    def flac(
        self,
        path: Path,
        *,
        start_s: float | None = None,
        end_s: float | None = None,
        most_s: float = MOST_S,
        check: Callable[[], None] = nothing,
    ) -> bytes:
        """What `decode` gives, fit to travel: clipped at full scale (nan too), and without the last of 24 bits. Raises as `decode`."""
        samples = ["-sample_fmt", "s32", "-bits_per_raw_sample", "24"]
        wanted = [*WHOLE, "-ac", "1", "-ar", str(SAMPLE_RATE), "-c:a", "flac", *samples, "-f", "flac", "-"]
        most_bytes = math.ceil(most_s * SAMPLE_RATE) * BYTES_PER_SAMPLE  # more than FLAC takes at its worst
        return self._converted([*_clip(start_s, end_s), *_input(), *wanted], path, Bounds(_patience_s(path, most_s), most_bytes, check))

    def _converted(self, arguments: list[str], path: Path, bounds: Bounds) -> bytes:
        done = self._run(arguments, path, bounds)
        if done.code != 0 and not done.output:
            raise InvalidMedia(_complaint(done.said))
        return done.output

    def _run(self, arguments: list[str], source: Path | None, bounds: Bounds) -> Ended:
        return run(self._program, ["-hide_banner", "-nostdin", "-loglevel", "error", *arguments], source, bounds)


def _patience_s(path: Path, most_s: float) -> float:
    size = path.stat().st_size if path.exists() else 0
    return TIMEOUT_FLOOR_S + size / SLOWEST_READ + most_s / SLOWEST_DECODE


def longest_s(said_s: float) -> float:
    """How many seconds of sound may come out of what says that it lasts `said_s`: time stamps may lie, and it must fit into memory."""
    return said_s * MARGIN + MARGIN_S


def _input() -> list[str]:
    return ["-protocol_whitelist", "file", "-format_whitelist", FORMATS, "-codec_whitelist", DECODERS, "-i", INPUT]


def _clip(start_s: float | None, end_s: float | None) -> list[str]:
    return [*_option("-ss", start_s or None), *_option("-to", end_s)]


def _option(name: str, time_s: float | None) -> list[str]:
    """Without an exponent, which ffmpeg does not read."""
    return [] if time_s is None else [name, f"{min(time_s, LAST_S):.6f}"]


def _last_time_s(progress: str) -> float:
    times = [line.partition("=")[2] for line in progress.splitlines() if line.startswith("out_time_us=")]
    return max((int(time) / 1e6 for time in times if time.lstrip("-").isdigit()), default=0.0)


def _complaint(said: str) -> str:
    """ffmpeg's own words made fit to show."""
    if "matches no streams" in said:
        return "the file holds no audio: send a recording, or a video with a sound track"
    if "moov atom not found" in said:
        return "the file is not whole: the index of this MP4 or M4A is missing; send it again, or repair it if its recording broke off"
    if "Invalid data" in said or "not in allowed list" in said or "whitelist" in said:
        return "the file is not a recording that can be decoded: send WAV, MP3, FLAC, Ogg, M4A, MP4, WebM or another common format"
    first = next((line for line in said.splitlines() if line.strip()), "no reason given")
    plain = re.sub(r"\[[^]]* @ 0x[0-9a-f]+\] *", "", first).replace(INPUT, "the file")
    return f"the recording cannot be decoded ({plain}): {CONVERT}"
