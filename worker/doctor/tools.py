"""ffmpeg: there, able to do what core/media.py asks of it, and giving as many samples as it must."""

import wave
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from core.errors import SpillwayError
from core.media import BYTES_PER_SAMPLE, SAMPLE_RATE, Ffmpeg
from worker.doctor.findings import Finding, Verdict

# What the formats that uploads are asked to be in need; a build without one refuses every such recording.
ABILITIES = {
    "protocols": ("file", "pipe"),
    "demuxers": ("wav", "mp3", "flac", "ogg", "aac", "mov", "matroska"),
    "decoders": ("pcm_s16le", "mp3", "flac", "vorbis", "opus", "aac"),
    "filters": ("aresample",),
}
CD_RATE = 44_100  # Hz, so that it must resample
TENTH_S = 0.1
INSTALL = "install a whole ffmpeg (`apt-get install ffmpeg`), or set SPILLWAY_FFMPEG to the path of one"


def ffmpeg_findings(ffmpeg: Ffmpeg) -> Iterator[Finding]:
    try:
        yield Finding("ffmpeg", Verdict.OK, ffmpeg.version())
        yield _abilities(ffmpeg)
        yield _decodes(ffmpeg)
    except (SpillwayError, OSError) as error:
        yield Finding("ffmpeg", Verdict.WRONG, str(error), INSTALL)


def _abilities(ffmpeg: Ffmpeg) -> Finding:
    lacking = {kind: set(names) - ffmpeg.listed(kind) for kind, names in ABILITIES.items()}
    if any(lacking.values()):
        said = ", ".join(f"{kind} {' '.join(sorted(names))}" for kind, names in lacking.items() if names)
        return Finding("ffmpeg abilities", Verdict.WRONG, f"this build lacks {said}", INSTALL)
    return Finding("ffmpeg abilities", Verdict.OK, "; ".join(f"{kind} {' '.join(names)}" for kind, names in ABILITIES.items()))


def _decodes(ffmpeg: Ffmpeg) -> Finding:
    expected = round(TENTH_S * SAMPLE_RATE)
    with TemporaryDirectory() as folder:
        samples = len(ffmpeg.decode(_silence(Path(folder) / "silence.wav"))) // BYTES_PER_SAMPLE
    if samples != expected:
        return Finding("ffmpeg decoding", Verdict.WRONG, f"{samples} samples of {TENTH_S} s of silence, {expected} are due", INSTALL)
    return Finding("ffmpeg decoding", Verdict.OK, f"{samples} samples of {TENTH_S} s of silence")


def _silence(path: Path) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, CD_RATE, 0, "NONE", ""))
        file.writeframes(bytes(2 * round(TENTH_S * CD_RATE)))
    return path
