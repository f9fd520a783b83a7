"""Probing and decoding with the real ffmpeg, on recordings that the test makes with it."""

import subprocess
from array import array
from pathlib import Path

import pytest

from core.errors import InvalidMedia, OurError
from core.media import Ffmpeg

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


def test_a_missing_ffmpeg_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(OurError, match="SPILLWAY_FFMPEG"):
        Ffmpeg(str(tmp_path / "nowhere")).version()
