"""Files that mean harm, made byte by byte."""

import gzip
import io
import struct
import zipfile

SAMPLES = 8000  # a second at 8 kHz


def box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full_box(kind: bytes, *content: bytes) -> bytes:
    return box(kind, bytes(4), *content)


def mov(*, dref: bytes = b"", duration: int = SAMPLES, edits: tuple[tuple[int, int], ...] = (), samples: int = SAMPLES) -> bytes:
    """A second of 16-bit sound, in itself or, by `dref`, in another file."""
    head = box(b"ftyp", b"qt  ", bytes(4), b"qt  ")
    mdat = box(b"mdat", (b"\x20\x00\xe0\x00" * 4000)[: 2 * SAMPLES])
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    sound = struct.pack(">6xH8xHHHHI", 1, 1, 16, 0, 0, 8000 << 16)
    table = box(
        b"stbl",
        full_box(b"stsd", struct.pack(">I", 1), box(b"sowt", sound)),
        full_box(b"stts", struct.pack(">III", 1, samples, 1)),
        full_box(b"stsc", struct.pack(">IIII", 1, 1, samples, 1)),
        full_box(b"stsz", struct.pack(">II", 2, samples)),
        full_box(b"stco", struct.pack(">II", 1, 0 if dref else len(head) + 8)),
    )
    refs = full_box(b"dref", struct.pack(">I", 1), dref or box(b"url ", b"\x00\x00\x00\x01"))
    handler = full_box(b"hdlr", b"mhlrsoun", bytes(13))
    info = box(b"minf", full_box(b"smhd", bytes(4)), box(b"dinf", refs), table)
    media = box(b"mdia", full_box(b"mdhd", struct.pack(">IIIIHH", 0, 0, 8000, duration & 0xFFFFFFFF, 0, 0)), handler, info)
    listed = b"".join(struct.pack(">IiI", length, start, 65536) for length, start in edits)
    edit = box(b"edts", full_box(b"elst", struct.pack(">I", len(edits)), listed)) if edits else b""
    track = box(b"trak", full_box(b"tkhd", struct.pack(">IIIII8xHHHH", 0, 0, 1, 0, duration & 0xFFFFFFFF, 0, 0, 256, 0), matrix, bytes(8)))
    track = box(b"trak", track[8:], edit, media)
    header = full_box(
        b"mvhd", struct.pack(">IIIIIH10x", 0, 0, 8000, duration & 0xFFFFFFFF, 65536, 256), matrix, bytes(24), b"\x00\x00\x00\x02"
    )
    return head + mdat + box(b"moov", header, track)


def mac_alias(path: str) -> bytes:
    """The reference to another file that QuickTime's old movies hold, one level up at most."""
    name = path.rpartition("/")[2].encode()
    record = bytes(10) + bytes([1]) + b"x".ljust(27, b"\0") + bytes(12) + bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16)
    record += struct.pack(">HH", 1, 1) + bytes(16)
    place = path.encode() + b"\0" * (len(path) % 2)
    record += struct.pack(">HH", 2, len(place)) + place + struct.pack(">HH", 0xFFFF, 0)
    return box(b"alis", bytes(4), record.ljust(200, b"\0"))


def flac(frames: int, *, total_samples: int, numbered: bool = True) -> bytes:
    """Silence, 65535 samples in each frame of 16 bytes or so: 4 s at 16 kHz."""
    info = struct.pack(">HH", 65535, 65535) + bytes(6)
    info += ((16000 << 44) | (15 << 36) | total_samples).to_bytes(8, "big") + bytes(16)
    stream = b"fLaC" + b"\x80" + len(info).to_bytes(3, "big") + info
    if not numbered:
        return stream + _flac_frame(0) * frames
    return stream + b"".join(_flac_frame(number) for number in range(frames))


def _flac_frame(number: int) -> bytes:
    head = b"\xff\xf8\x75\x08" + chr(number).encode("utf-8", "surrogatepass") + b"\xff\xfe"
    head += bytes([_crc(head, 0x07, 8)])
    frame = head + b"\x00\x00\x00"
    return frame + _crc(frame, 0x8005, 16).to_bytes(2, "big")


def _crc(content: bytes, polynomial: int, bits: int) -> int:
    found, top = 0, 1 << (bits - 1)
    for byte in content:
        found ^= byte << (bits - 8)
        for _ in range(8):
            found = ((found << 1) ^ polynomial if found & top else found << 1) & ((1 << bits) - 1)
    return found


def ogg_with_granule(ogg: bytes, granule: int) -> bytes:
    """The last page ends at another sample."""
    start = ogg.rindex(b"OggS")
    page = bytearray(ogg[start:])
    page[6:14] = granule.to_bytes(8, "little", signed=True)
    page[22:26] = bytes(4)
    page[22:26] = _crc(bytes(page), 0x04C11DB7, 32).to_bytes(4, "little")
    return ogg[:start] + bytes(page)


def wav(*, rate: int = 16000, channels: int = 1, data: bytes = bytes(32000), announced: int | None = None) -> bytes:
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, (rate * channels * 2) & 0xFFFFFFFF, (channels * 2) & 0xFFFF, 16)
    size = len(data) if announced is None else announced
    body = b"WAVE" + head + struct.pack("<4sI", b"data", size) + data
    return struct.pack("<4sI", b"RIFF", min(0xFFFFFFFF, len(body) if announced is None else announced)) + body


def cover_without_sound() -> bytes:
    """An ID3 tag with a picture, and not one frame of MP3 behind it."""
    picture = b"\x00image/png\x00\x03\x00\x89PNG\r\n\x1a\n" + bytes(400)
    frame = b"APIC" + struct.pack(">IH", len(picture), 0) + picture
    size = len(frame)
    return b"ID3\x03\x00\x00" + bytes([size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127]) + frame


def zip_bomb() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("talk.wav", wav(data=bytes(20_000_000)))
    return content.getvalue()


def gzip_bomb() -> bytes:
    return gzip.compress(wav(data=bytes(20_000_000)), mtime=0)
