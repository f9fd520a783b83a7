"""Recordings that are none, that name other files and addresses, or that lie about themselves: each gets its answer, and nothing more."""

import random
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import InvalidMedia
from core.media import Ffmpeg
from tests.core import hostile
from tests.core.watched import nothing_left, unopened, unreached

NO_RECORDING, NO_AUDIO, EMPTY, TOO_LONG = "not a recording", "holds no audio", "empty", "longer than its own time stamps"
MOST_S = 30.0

# {secret} is a recording beside the upload, {elsewhere} one by its whole path, {url} a server that answers nobody.
TEXTS = {
    "HLS with a file beside it": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{secret}\n#EXT-X-ENDLIST\n",
    "HLS with an absolute file": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{elsewhere}\n#EXT-X-ENDLIST\n",
    "HLS with an address": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{url}/a.ts\n#EXT-X-ENDLIST\n",
    "HLS with concat:": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nconcat:{secret}|{secret}\n#EXT-X-ENDLIST\n",
    "HLS with subfile:": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nsubfile,,start,0,end,64,,:{secret}\n#EXT-X-ENDLIST\n",
    "HLS with data:": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\ndata:audio/wav;base64,UklGRg==\n#EXT-X-ENDLIST\n",
    "HLS with a key elsewhere": '#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-KEY:METHOD=AES-128,URI="{url}/k"\n#EXTINF:2,\n{secret}\n',
    "HLS with crypto:": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\ncrypto:{secret}\n#EXT-X-ENDLIST\n",
    "HLS of HLS": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{url}/b.m3u8\n",
    "a plain playlist": "{secret}\n{url}/a.mp3\n",
    "ffconcat with a file beside it": "ffconcat version 1.0\nfile '{secret}'\n",
    "ffconcat with an absolute file": "ffconcat version 1.0\nfile 'file:{elsewhere}'\n",
    "ffconcat with an address": "ffconcat version 1.0\nfile '{url}/a.wav'\n",
    "DASH": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT2S"><BaseURL>{url}/'
    "</BaseURL><Period><AdaptationSet><Representation><BaseURL>a.mp4</BaseURL></Representation></AdaptationSet></Period></MPD>",
    "SVG": '<svg xmlns:xlink="http://www.w3.org/1999/xlink"><image xlink:href="{url}/a.png"/><image xlink:href="{secret}"/></svg>',
    "XML with an entity": '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file://{elsewhere}">]><a>&b;</a>',
    "SMIL": '<smil><body><audio src="{secret}"/><audio src="{url}/a.mp3"/></body></smil>',
    "an IMF list": '<CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"><Id>urn:uuid:0</Id></CompositionPlaylist>',
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    "ASX": '<asx version="3.0"><entry><ref href="{url}/a.wma"/></entry></asx>',
    "an ASF redirector": "[Reference]\nRef1={url}/a.asf\n",
    "PLS": "[playlist]\nFile1={url}/a.mp3\nFile2={secret}\nNumberOfEntries=2\n",
    "an internet shortcut": "[InternetShortcut]\nURL={url}/a.mp3\n",
    "RTSP by text": "RTSPtextRTSP://127.0.0.1/a\n",
    "ASS": "[Script Info]\nScriptType: v4.00+\n[Fonts]\nfontname: {secret}\n[Events]\nDialogue: 0,0:00:00.00,0:00:09.00,,,,,,,{secret}\n",
    "SRT": "1\n00:00:00,000 --> 99:59:59,000\n<img src='{url}/a.png'>\n",
    "WebVTT": "WEBVTT\n\nSTYLE\n@import url({url}/a.css)\n\n00:00.000 --> 00:09.000\nhello\n",
    "MPL2": "[0][90]{secret}\n",
    "an image pattern": "image%03d.png\n",
    "a filter graph": "sine=frequency=440:duration=5[out0]\n",
    "movie=": "amovie={secret}[out0]\n",
    "AviSynth": 'WavSource("{secret}")\n',
    "VapourSynth": "import vapoursynth as vs\nopen('{secret}').read()\n",
    "ffmetadata": ";FFMETADATA1\ntitle=x\n[STREAM]\n",
    "ICY text": "ICY 200 OK\r\ncontent-type: audio/mpeg\r\n\r\n",
    "a script": "#!/bin/sh\ncat {secret}\n",
    "HTML": "<html><body><audio src='{url}/a.mp3'></audio></body></html>",
}

BYTES: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", NO_RECORDING),
    "one byte": (lambda: b"R", NO_RECORDING),
    "zeros": (lambda: bytes(100_000), NO_RECORDING),
    "noise": (lambda: random.Random(5).randbytes(100_000), ""),
    "a ZIP that unpacks to 20 MB": (hostile.zip_bomb, NO_RECORDING),
    "a gzip that unpacks to 20 MB": (hostile.gzip_bomb, NO_RECORDING),
    "a PNG": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(500), NO_RECORDING),
    "a PDF": (lambda: b"%PDF-1.7\n1 0 obj<</S/Launch/F(/bin/sh)>>endobj\n", NO_RECORDING),
    "a program": (lambda: b"\x7fELF\x02\x01\x01" + bytes(500), NO_RECORDING),
    "a pickle": (lambda: b"cos\nsystem\n(S'touch pickled'\ntR.", NO_RECORDING),
    "a cover without a song": (hostile.cover_without_sound, NO_RECORDING),
    "a RIFF head alone": (lambda: hostile.wav()[:20], NO_RECORDING),
    "a WAV head alone": (lambda: hostile.wav(data=b""), EMPTY),
    "a FLAC head alone": (lambda: hostile.flac(0, total_samples=16000), ""),
    "a MOV head alone": (lambda: hostile.mov()[:60], "the file is not whole"),
    "a MOV whose sound is in a file beside it": (lambda: hostile.mov(dref=hostile.mac_alias("secret.wav")), EMPTY),
    "a MOV whose sound is in the folder above": (lambda: hostile.mov(dref=hostile.mac_alias("../elsewhere.wav")), EMPTY),
    "a MOV that announces 149 hours": (lambda: hostile.mov(duration=0xFFFFFFF0), "1.0"),
    "a MOV of more samples than bytes": (lambda: hostile.mov(samples=0x7FFFFFFF), "1.0"),
    "a MOV with an edit of 74 hours": (lambda: hostile.mov(edits=((0x7FFFFFFF, -1), (8000, 0))), "1.0"),
    "a MOV that is played 50 times": (lambda: hostile.mov(edits=((0x7FFFFFFF, 0),) * 50), TOO_LONG),
    "a WAV that announces 37 hours": (lambda: hostile.wav(announced=0xFFFFFFFF), "1.0"),
    "a FLAC that announces 50 days": (lambda: hostile.flac(2, total_samples=2**36 - 1), "8.2"),
    "160 kB of FLAC that decode to 2.6 GB": (lambda: hostile.flac(10_000, total_samples=0), TOO_LONG),
    "0 Hz": (lambda: hostile.wav(rate=0), NO_RECORDING),
    "1 Hz": (lambda: hostile.wav(rate=1, data=bytes(2000)), TOO_LONG),
    "192 kHz and eight channels": (lambda: hostile.wav(rate=192_000, channels=8, data=bytes(192_000 * 16)), "1.0"),
    "4 GHz": (lambda: hostile.wav(rate=0xFFFFFFFF), NO_RECORDING),
    "no channel": (lambda: hostile.wav(channels=0), EMPTY),
    "255 channels": (lambda: hostile.wav(channels=255, data=bytes(51_000)), "cannot be decoded"),
    "65535 channels": (lambda: hostile.wav(channels=65_535), EMPTY),
}


@pytest.fixture(scope="module")
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A second of loud sound, where a relative name would find it."""
    path, loud = tmp_path / "files" / "secret.wav", hostile.wav(data=b"\x00\x40\x00\xc0" * 8000)
    path.parent.mkdir()
    for place in (path, elsewhere(path)):
        place.write_bytes(loud)
    return path


def elsewhere(secret: Path) -> Path:
    return secret.parents[1] / "elsewhere.wav"


def answered(media: Ffmpeg, path: Path) -> str:
    """What the sender reads, or the seconds of sound that came out."""
    try:
        if media.probe(path).duration_s <= 0:
            return EMPTY  # which the service refuses
        return f"{len(media.decode(path, most_s=MOST_S)) / 64_000:.1f}"
    except InvalidMedia as refusal:
        return str(refusal)


def offer(ffmpeg: str, secret: Path, content: bytes, server: socket.socket) -> str:
    """The answer, and nothing read, reached, left or told beside it."""
    path, scratch = secret.with_name("upload"), secret.with_name("scratch")
    path.write_bytes(content)
    scratch.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(scratch))
        with unopened(secret, elsewhere(secret)), unreached(server), nothing_left(secret.parent):
            answer = answered(Ffmpeg(ffmpeg), path)
    assert "/" not in answer.replace(path.name, "")
    assert "0x" not in answer
    return answer


def filled(text: str, secret: Path, server: socket.socket) -> bytes:
    url = f"http://127.0.0.1:{server.getsockname()[1]}"
    return text.replace("{secret}", secret.name).replace("{elsewhere}", str(elsewhere(secret))).replace("{url}", url).encode()


@pytest.mark.parametrize("name", TEXTS)
def test_text_that_names_other_things_is_no_recording(ffmpeg: str, secret: Path, server: socket.socket, name: str) -> None:
    assert NO_RECORDING in offer(ffmpeg, secret, filled(TEXTS[name], secret, server), server)


@pytest.mark.parametrize("name", BYTES)
def test_a_file_that_lies_gets_its_answer(ffmpeg: str, secret: Path, server: socket.socket, name: str) -> None:
    make, expected = BYTES[name]
    assert expected in offer(ffmpeg, secret, make(), server)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ffconcat with a file beside it", []),
        ("HLS with a file beside it", ["-allowed_extensions", "ALL", "-extension_picky", "0"]),
    ],
)
def test_the_bait_is_taken_without_the_lists(ffmpeg: str, secret: Path, server: socket.socket, name: str, options: list[str]) -> None:
    """Or the tests above could not fail."""
    upload = secret.with_name("upload.m3u8" if "HLS" in name else "upload")
    upload.write_bytes(filled(TEXTS[name], secret, server))
    with pytest.raises(AssertionError, match="opened"), unopened(secret):
        subprocess.run([ffmpeg, "-nostdin", *options, "-i", str(upload), "-f", "null", "-"], capture_output=True, timeout=30)


def test_quicktimes_references_are_followed_only_when_asked(ffmpeg: str, secret: Path) -> None:
    upload = secret.with_name("upload")
    upload.write_bytes(hostile.mov(dref=hostile.mac_alias("secret.wav")))
    command = [ffmpeg, "-nostdin", "-enable_drefs", "1", "-i", str(upload), "-f", "f32le", "-"]
    assert subprocess.run(command, capture_output=True, timeout=30).stdout


def test_a_decoder_that_gives_nothing_is_ended_by_the_clock(ffmpeg: str, tmp_path: Path) -> None:
    """7 MB of FLAC, 20 days of silence that all claim the same four seconds: what does not advance is dropped, so no byte ends it."""
    path = tmp_path / "upload"
    path.write_bytes(hostile.flac(437_000, total_samples=0, numbered=False))
    with nothing_left(tmp_path), pytest.raises(InvalidMedia, match="within 1 s: convert it"):
        Ffmpeg(ffmpeg).decode(path, most_s=MOST_S, timeout_s=1)


TONE = ["-f", "lavfi", "-i", "sine=frequency=440:duration=2"]
PICTURE = ["-f", "lavfi", "-i", "testsrc=duration=2:size=64x64:rate=5"]
EXACT = ["-fflags", "+bitexact", "-flags:a", "+bitexact"]
REAL = (
    "a.wav",
    "a.flac",
    "a.mp3",
    "a.ogg",
    "a.opus",
    "a.m4a",
    "a.aiff",
    "a.au",
    "a.caf",
    "a.wma",
    "a.ac3",
    "a.ts",
    "a.webm",
    "a.mkv",
    "a.mp4",
    "a.avi",
)


@pytest.fixture(scope="module")
def real(ffmpeg: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    folder = tmp_path_factory.mktemp("real")

    def made(name: str, *more: str) -> bytes:
        path = folder / name
        if not path.exists():
            pictures = PICTURE if name.endswith((".mp4", ".mkv", ".avi")) else []
            subprocess.run([ffmpeg, "-loglevel", "error", "-nostdin", *pictures, *TONE, *EXACT, *more, str(path)], check=True)
        return path.read_bytes()

    return made


@pytest.mark.parametrize("name", REAL)
def test_a_real_recording_cut_or_scratched_is_taken_or_refused(
    ffmpeg: str, secret: Path, server: socket.socket, real: Callable[[str], bytes], name: str
) -> None:
    content, chance = real(name), random.Random(name)
    scratched = bytearray(content)
    for _ in range(max(8, len(content) // 500)):
        scratched[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    for damaged in (content[: len(content) // 2], bytes(scratched)):
        answer = offer(ffmpeg, secret, damaged, server)
        assert answer.replace(".", "").isdigit() or "send" in answer or answer == EMPTY, answer
        secret.with_name("scratch").rmdir()


def test_an_opus_end_in_the_far_future_is_not_waited_for(
    ffmpeg: str, secret: Path, server: socket.socket, real: Callable[[str], bytes]
) -> None:
    assert offer(ffmpeg, secret, hostile.ogg_with_granule(real("a.opus"), 2**50), server) == "2.0"


def test_an_mp3_that_announces_a_century_is_measured(
    ffmpeg: str, secret: Path, server: socket.socket, real: Callable[[str], bytes]
) -> None:
    content = bytearray(real("a.mp3"))
    info = content.index(b"Info")
    content[info + 8 : info + 12] = b"\x7f\xff\xff\xff"
    assert offer(ffmpeg, secret, bytes(content), server).startswith("2.")


def test_what_lies_beside_the_sound_is_left_alone(ffmpeg: str, secret: Path, server: socket.socket, tmp_path: Path) -> None:
    """A Matroska with an attachment, a picture and a hundred more tracks of sound: the first is taken."""
    note, path = tmp_path / "note.txt", tmp_path / "many.mka"
    note.write_text("../elsewhere.wav")
    tracks = [part for _ in range(100) for part in ("-map", "0:a")]
    attached = ["-attach", str(note), "-metadata:s:t", "mimetype=text/plain"]
    subprocess.run([ffmpeg, "-loglevel", "error", "-nostdin", *TONE, *tracks, *attached, "-t", "1", str(path)], check=True)
    assert offer(ffmpeg, secret, path.read_bytes(), server) == "1.0"


def test_pictures_without_sound_are_refused_for_that(ffmpeg: str, secret: Path, server: socket.socket, tmp_path: Path) -> None:
    path = tmp_path / "silent.mp4"
    subprocess.run([ffmpeg, "-loglevel", "error", "-nostdin", *PICTURE, str(path)], check=True)
    assert NO_AUDIO in offer(ffmpeg, secret, path.read_bytes(), server)


SPOT = st.tuples(st.floats(0, 1), st.integers(0, 64), st.binary(max_size=16))


@given(name=st.sampled_from(REAL), spots=st.lists(SPOT, min_size=1, max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_mutation_of_a_recording_is_scratched_sound_or_refused(
    ffmpeg: str, tmp_path: Path, real: Callable[[str], bytes], name: str, spots: list[tuple[float, int, bytes]]
) -> None:
    content = bytearray(real(name))
    for place, length, put in spots:
        start = round(place * len(content))
        content[start : start + length] = put
    path = tmp_path / "upload"
    path.write_bytes(content)
    with nothing_left(tmp_path):
        answer = answered(Ffmpeg(ffmpeg), path)
    assert answer.replace(".", "").isdigit() or "send" in answer or answer == EMPTY, answer
