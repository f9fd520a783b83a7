"""Probing and decoding with the real ffmpeg, on recordings that the test makes with it."""

import os
import signal
import subprocess
from array import array
from contextlib import suppress
from pathlib import Path
from time import monotonic

import pytest

from core.errors import InvalidMedia, JobCancelled, OurError
from core.media import Ffmpeg
from core.media_process import BUSY_THREADS
from tests.conftest import wait_for
from tests.core.watched import children

TONE = ["-f", "lavfi", "-i", "sine=frequency=440:duration=2"]
PICTURE = ["-f", "lavfi", "-i", "testsrc=duration=2:size=64x64:rate=5"]


@pytest.fixture
def media(ffmpeg: str) -> Ffmpeg:
    return Ffmpeg(ffmpeg)


def make(ffmpeg: str, path: Path, *arguments: str) -> Path:
    subprocess.run([ffmpeg, "-loglevel", "error", "-nostdin", *arguments, str(path)], check=True)
    return path


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("plain.wav", TONE),
        ("eight-bit.wav", [*TONE, "-c:a", "pcm_u8", "-ar", "8000"]),
        ("stereo.wav", [*TONE, "-ac", "2"]),
        ("high-rate.wav", [*TONE, "-ar", "96000", "-c:a", "pcm_s24le"]),
        ("five-one.flac", [*TONE, "-ac", "6"]),
        ("lossless.flac", TONE),
        ("music.mp3", TONE),
        ("voice.ogg", TONE),
        ("voice.opus", TONE),
        ("phone.m4a", TONE),
        ("law.au", [*TONE, "-c:a", "pcm_mulaw", "-ar", "8000"]),
        ("apple.aiff", TONE),
        ("video.mp4", [*PICTURE, *TONE, "-c:v", "mpeg4"]),
        ("video.mkv", [*PICTURE, *TONE, "-c:v", "mpeg4"]),
        ("video.webm", [*PICTURE, *TONE, "-c:v", "libvpx"]),
        ("broadcast.ts", TONE),
    ],
)
def test_every_common_recording_is_probed_and_decoded(media: Ffmpeg, ffmpeg: str, tmp_path: Path, name: str, arguments: list[str]) -> None:
    path = make(ffmpeg, tmp_path / name, *arguments)
    assert media.probe(path).duration_s == pytest.approx(2.0, abs=0.1)
    samples = array("f", media.decode(path))
    assert len(samples) == pytest.approx(32000, abs=1600)
    assert 0.05 < max(samples) <= 1.0


def test_a_clip_is_cut_where_it_was_asked(media: Ffmpeg, ffmpeg: str, tmp_path: Path) -> None:
    path = make(ffmpeg, tmp_path / "a.flac", *TONE)
    assert len(media.decode(path, start_s=0.5, end_s=1.25)) == 4 * 12000
    assert len(media.decode(path, start_s=1.5)) == 4 * 8000
    assert len(media.decode(path, end_s=0.25)) == 4 * 4000


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "float.wav"])
def test_a_clip_that_travels_as_flac_is_the_clip_to_the_last_of_24_bits(media: Ffmpeg, ffmpeg: str, tmp_path: Path, name: str) -> None:
    path = make(ffmpeg, tmp_path / name, *TONE, "-ar", "44100", *(("-c:a", "pcm_f32le") if name.startswith("float") else ()))
    travelled = tmp_path / "clip.flac"
    travelled.write_bytes(media.flac(path, start_s=0.5, end_s=1.25))
    here, there = (array("f", samples) for samples in (media.decode(path, start_s=0.5, end_s=1.25), media.decode(travelled)))
    assert len(here) == len(there)
    assert max(abs(one - other) for one, other in zip(here, there, strict=True)) <= 2**-23
    assert travelled.stat().st_size < len(here) * 4


def test_what_holds_no_sound_makes_no_flac(media: Ffmpeg, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no recording")
    with pytest.raises(InvalidMedia):
        media.flac(tmp_path / "text")


def test_the_duration_is_measured_not_believed(media: Ffmpeg, ffmpeg: str, tmp_path: Path) -> None:
    path = make(ffmpeg, tmp_path / "a.wav", *TONE)
    lying = bytearray(path.read_bytes())
    size = lying.index(b"data") + 4
    lying[4:8] = lying[size : size + 4] = b"\xff\xff\xff\x7f"
    path.write_bytes(lying)
    assert media.probe(path).duration_s == pytest.approx(2.0, abs=0.1)


def test_a_fifth_of_a_second_is_a_recording(media: Ffmpeg, ffmpeg: str, tmp_path: Path) -> None:
    path = make(ffmpeg, tmp_path / "a.wav", "-f", "lavfi", "-i", "sine=duration=0.2")
    assert media.probe(path).duration_s == pytest.approx(0.2, abs=0.01)


def test_a_video_without_sound_is_refused_with_what_to_do(media: Ffmpeg, ffmpeg: str, tmp_path: Path) -> None:
    path = make(ffmpeg, tmp_path / "a.mp4", *PICTURE, "-c:v", "mpeg4")
    for act in (media.probe, media.decode):
        with pytest.raises(InvalidMedia, match="holds no audio: send a recording"):
            act(path)


def test_an_m4a_that_was_cut_off_is_told_apart_from_what_is_no_recording(media: Ffmpeg, ffmpeg: str, tmp_path: Path) -> None:
    path = make(ffmpeg, tmp_path / "a.m4a", *TONE, "-c:a", "aac")
    path.write_bytes(path.read_bytes()[:10_000])
    for act in (media.probe, media.decode):
        with pytest.raises(InvalidMedia, match="the file is not whole"):
            act(path)


@pytest.mark.parametrize(
    "content", [b"", b"hello", bytes(5000), b"RIFF\x00\x00\x00\x00WAVE", b"ffconcat version 1.0\nfile 'secret.wav'\n", b"#EXTM3U\n"]
)
def test_what_is_no_recording_is_refused_without_naming_our_paths(media: Ffmpeg, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "upload.ogg"
    path.write_bytes(content)
    with pytest.raises(InvalidMedia) as refusal:
        media.probe(path)
    assert str(tmp_path) not in str(refusal.value)


def test_an_upload_cannot_read_a_file_beside_it(media: Ffmpeg, ffmpeg: str, tmp_path: Path) -> None:
    make(ffmpeg, tmp_path / "secret.wav", *TONE)
    path = tmp_path / "upload.ogg"
    path.write_text("ffconcat version 1.0\nfile 'secret.wav'\n")
    with pytest.raises(InvalidMedia):
        media.decode(path)


def test_a_recording_cut_short_gives_what_is_there(media: Ffmpeg, ffmpeg: str, tmp_path: Path) -> None:
    path = make(ffmpeg, tmp_path / "a.mp3", *TONE)
    path.write_bytes(path.read_bytes()[:6000])
    assert 0.1 < media.probe(path).duration_s < 2.0
    assert media.decode(path)


@pytest.mark.parametrize(("clip", "seconds"), [({"start_s": 1e-05}, 2.0), ({"end_s": 1e17}, 2.0), ({"start_s": 1.5, "end_s": 1e300}, 0.5)])
def test_a_clip_time_may_be_tiny_or_far_behind_the_end(
    media: Ffmpeg, ffmpeg: str, tmp_path: Path, clip: dict[str, float], seconds: float
) -> None:
    path = make(ffmpeg, tmp_path / "a.flac", *TONE)
    assert len(media.decode(path, **clip)) == pytest.approx(64_000 * seconds, abs=8)  # type: ignore[arg-type]


def test_a_clip_that_begins_behind_the_end_is_empty(media: Ffmpeg, ffmpeg: str, tmp_path: Path) -> None:
    assert media.decode(make(ffmpeg, tmp_path / "a.flac", *TONE), start_s=1e17) == b""


def test_a_recording_whose_time_stamps_lie_is_decoded_no_further_than_was_allowed(media: Ffmpeg, ffmpeg: str, tmp_path: Path) -> None:
    honest = make(ffmpeg, tmp_path / "a.mp3", "-f", "lavfi", "-i", "sine=duration=60")
    path = make(ffmpeg, tmp_path / "a.mkv", "-i", str(honest), "-c", "copy", "-bsf:a", "setts=pts=0:dts=0")
    claimed_s = media.probe(path).duration_s
    assert claimed_s < 1
    try:  # filling gaps by time stamps drops what lies; should it come out all the same, it is refused
        decoded = media.decode(path, most_s=claimed_s + 5)
    except InvalidMedia as error:
        assert "longer than its own time stamps say: convert it" in str(error)  # noqa: PT017
    else:
        assert len(decoded) <= 4 * 16_000 * (claimed_s + 5)


def test_a_recording_just_as_long_as_allowed_is_decoded(media: Ffmpeg, ffmpeg: str, tmp_path: Path) -> None:
    path = make(ffmpeg, tmp_path / "a.wav", *TONE, "-ar", "16000")
    assert len(media.decode(path, most_s=2.0)) == 128_000
    with pytest.raises(InvalidMedia):
        media.decode(path, most_s=1.99)


def stand_in(folder: Path, *lines: str) -> Ffmpeg:
    """A program in ffmpeg's place, for what ffmpeg does only on a bad day."""
    (folder / "a.wav").touch()
    program = folder / "stand-in"
    program.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    program.chmod(0o755)
    return Ffmpeg(str(program))


def test_half_a_decode_by_a_killed_ffmpeg_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    killed = stand_in(tmp_path, "printf 'abcd'", "kill -KILL $$")
    for act in (killed.decode, killed.probe):
        with pytest.raises(OurError, match="SIGKILL"):
            act(tmp_path / "a.wav")


def test_an_ffmpeg_that_is_told_to_end_early_gave_no_whole_decode(media: Ffmpeg, ffmpeg: str, tmp_path: Path) -> None:
    path = make(ffmpeg, tmp_path / "a.wav", "-f", "lavfi", "-i", "anullsrc=r=8000", "-t", "1", "-c:a", "pcm_u8")
    os.truncate(path, 2_000_000_000)  # a hole: longer than what is decoded until the first check
    before = children()  # the session's Redis among them
    with pytest.raises(OurError, match=r"SIGTERM|a signal that it caught"):
        media.decode(path, check=lambda: [os.kill(int(pid), signal.SIGTERM) for pid in children() - before] and None)


def test_an_error_behind_the_sound_keeps_the_sound(tmp_path: Path) -> None:
    assert stand_in(tmp_path, "printf 'abcd'", "echo broken >&2", "exit 183").decode(tmp_path / "a.wav") == b"abcd"


def test_a_flood_of_complaints_does_not_stop_the_sound(tmp_path: Path) -> None:
    noisy = stand_in(tmp_path, "head -c 1000000 /dev/zero >&2", "printf 'abcd'")
    assert noisy.decode(tmp_path / "a.wav") == b"abcd"


def test_ffmpeg_runs_within_limits(tmp_path: Path) -> None:
    limited = stand_in(tmp_path, *(f"ulimit -{limit}" for limit in "tvfcn"))
    said = limited.decode(tmp_path / "a.wav", timeout_s=77).decode().split()
    assert said == [str(77 * BUSY_THREADS), str(4 * 1024**2), "0", "0", "64"]


def test_ffmpeg_gets_nothing_of_our_environment_and_an_empty_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPILLWAY_HF_TOKEN", "secret")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    curious = stand_in(tmp_path, "env", "pwd")
    *said, folder = curious.decode(tmp_path / "a.wav").decode().splitlines()
    assert {line.partition("=")[0] for line in said} <= {"PATH", "LANG", "LC_CTYPE", "PWD", "OLDPWD", "SHLVL", "_"}
    assert Path(folder).parent == tmp_path
    assert not Path(folder).exists()


@pytest.mark.parametrize("crash", ["SEGV", "ABRT"])
def test_a_recording_that_crashes_ffmpeg_is_the_callers_to_mend(tmp_path: Path, crash: str) -> None:
    with pytest.raises(InvalidMedia, match="convert it"):
        stand_in(tmp_path, f"kill -{crash} $$").probe(tmp_path / "a.wav")


def test_an_ffmpeg_that_lacks_a_library_is_not_blamed_on_the_recording(tmp_path: Path) -> None:
    with pytest.raises(OurError, match=r"does not start: .*libx\.so"):
        stand_in(tmp_path, "echo libx.so: cannot open shared object file >&2", "exit 127").probe(tmp_path / "a.wav")


def test_a_recording_that_was_deleted_meanwhile_is_ours(media: Ffmpeg, tmp_path: Path) -> None:
    with pytest.raises(OurError, match="not in the file store"):
        media.decode(tmp_path / "gone.wav")


def test_a_check_that_raises_ends_ffmpeg_and_leaves_nothing(tmp_path: Path) -> None:
    before, started = children(), monotonic()
    during: set[str] = set()

    def check() -> None:
        during.update(children())
        raise JobCancelled("j")

    with pytest.raises(JobCancelled):
        stand_in(tmp_path, "exec sleep 60").decode(tmp_path / "a.wav", check=check)
    assert monotonic() - started < 5
    assert len(during - before) == 1
    assert children() == before


def test_what_ffmpeg_started_ends_with_it(tmp_path: Path) -> None:
    before, sessions = children(), set[int]()
    with pytest.raises(InvalidMedia, match="within"):
        stand_in(tmp_path, "sleep 60 &", "wait").decode(
            tmp_path / "a.wav", timeout_s=0.8, check=lambda: sessions.update(int(pid) for pid in children() - before)
        )
    assert len(sessions) == 1
    wait_for(lambda: not any(session_of(pid) in sessions for pid in processes()), "both to end")


def processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def session_of(pid: int) -> int | None:
    with suppress(ProcessLookupError, PermissionError):
        return os.getsid(pid)
    return None


def test_a_decode_that_keeps_giving_is_checked_as_well(tmp_path: Path) -> None:
    calls: list[float] = []

    def check() -> None:
        calls.append(monotonic())
        if len(calls) == 3:
            raise JobCancelled("j")

    started = monotonic()
    with pytest.raises(JobCancelled):
        stand_in(tmp_path, "while sleep 0.01; do echo x; done").decode(tmp_path / "a.wav", check=check)
    assert 0.7 < calls[-1] - started < 5


def test_a_decode_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(InvalidMedia, match="within 0 s"):
        stand_in(tmp_path, "exec sleep 60").decode(tmp_path / "a.wav", timeout_s=0.4)


def test_a_missing_ffmpeg_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(OurError, match="SPILLWAY_FFMPEG"):
        Ffmpeg(str(tmp_path / "nowhere")).version()


@pytest.mark.parametrize("name", ["late.mkv", "late.mp4"])
def test_audio_that_begins_late_keeps_its_times(media: Ffmpeg, ffmpeg: str, tmp_path: Path, name: str) -> None:
    """As in a screen recording whose microphone came on after two of its four seconds."""
    tone = ["-itsoffset", "2", "-f", "lavfi", "-i", "sine=frequency=440:duration=2"]
    picture = ["-f", "lavfi", "-i", "testsrc=duration=4:size=64x64:rate=5"]
    path = make(ffmpeg, tmp_path / name, *picture, *tone, "-c:v", "mpeg4")
    samples = array("f", media.decode(path))
    assert len(samples) / 16_000 == pytest.approx(media.probe(path).duration_s, abs=0.1)
    first = next(index for index, sample in enumerate(samples) if abs(sample) > 0.01)
    assert first / 16_000 == pytest.approx(2.0, abs=0.1)
