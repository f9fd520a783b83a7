"""Multipart uploads: the file goes to the file store's disk as it comes in, never whole in memory, never first to another place.

Werkzeug's decoder is driven here by hand because its parser asks for a place to write without saying for which field.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO

from flask import Request, g
from werkzeug.exceptions import BadRequest, ClientDisconnected, RequestTimeout, UnsupportedMediaType
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from core.errors import DiskFull, InvalidMedia, InvalidRequest, TooLarge
from core.file_store import SPARE_BYTES, FileStore
from core.partial_file import PartialFile
from core.urls import display_name
from service.validation import check_known

CHUNK_BYTES = 64 * 1024
BUFFER_BYTES = 512 * 1024  # what the decoder may hold: a few chunks, or one part's headers
FIELD_BYTES = 64 * 1024
FORM_BYTES = 1024 * 1024  # everything that is not the file: fields, headers, boundaries
MOST_PARTS = 100
ROOM_CHECK_BYTES = 16 * 1024**2  # a length may be unannounced, and others write too: room is looked for again this often


@dataclass(frozen=True)
class Upload:
    file: PartialFile | None  # to be kept or discarded; None when `fields` names a source in its place
    filename: str  # for display only
    fields: dict[str, str]


def receive(request: Request, files: FileStore, key: str, *, max_bytes: int) -> Upload:
    """The request's fields, and its file, to be kept under `key`, or the `source` among them.

    Raises `InvalidRequest`, `InvalidMedia`, `TooLarge`, `DiskFull` and werkzeug's 400, 408 and 415; then nothing is left behind.
    """
    boundary = _boundary(request)
    check_room(request, files, max_bytes=max_bytes)
    request.max_content_length = max_bytes + FORM_BYTES
    form = _Form(lambda: files.start(key), files.free_bytes, max_bytes)
    with ExitStack() as refused:
        refused.callback(form.discard)
        for event in _events(request.stream, boundary):
            form.take(event)
        g.is_upload_unread = False
        upload = form.received()
        refused.pop_all()
    return upload


def check_room(request: Request, files: FileStore, *, max_bytes: int) -> None:
    """Refuses by the announced size, before a byte is read. Raises `TooLarge`, `DiskFull`."""
    announced = request.content_length or 0
    if announced > max_bytes + FORM_BYTES:
        raise _too_large(max_bytes)
    if files.free_bytes() < announced + SPARE_BYTES:
        raise DiskFull(f"the file store has no room for {announced} bytes")


class _Form:
    """Takes the decoder's events: fields into memory, the file into the store."""

    def __init__(self, start: Callable[[], PartialFile], free_bytes: Callable[[], int], max_bytes: int) -> None:
        self._start, self._free_bytes, self._max_bytes = start, free_bytes, max_bytes
        self._file: PartialFile | None = None
        self._filename = ""
        self._fields: dict[str, bytearray] = {}
        self._write: Callable[[bytes], object] = len

    def take(self, event: Event) -> None:
        if isinstance(event, File):
            self._begin_file(event)
        elif isinstance(event, Field):
            self._begin_field(event.name or "")
        elif isinstance(event, Data):
            self._write(event.data)

    def received(self) -> Upload:
        fields = {name: _text(name, content) for name, content in self._fields.items()}
        if self._file is None:
            return Upload(None, "", _with_source(fields))
        if fields.get("source"):
            raise InvalidRequest("`file` and `source` came together: send one of them", field="source")
        if self._file.bytes == 0:
            raise InvalidMedia("the file is empty: send a recording")
        return Upload(self._file, self._filename, fields)

    def discard(self) -> None:
        if self._file is not None:
            self._file.discard()

    def _begin_file(self, part: File) -> None:
        if part.name != "file":
            check_known(part.name or "")
            raise InvalidRequest(f"{part.name!r} is an option, not a file: send it as a plain field", field=part.name)
        if self._file is not None:
            raise InvalidRequest("there are two files: send one per job", field="file")
        self._file, self._filename = self._start(), display_name(part.filename)
        self._write = self._write_file

    def _begin_field(self, name: str) -> None:
        if name == "file":
            raise InvalidRequest("`file` came without a filename: give its part one, as `curl -F file=@talk.mp3` does", field="file")
        check_known(name)
        if name in self._fields:
            raise InvalidRequest(f"{name} came twice", field=name)
        content = self._fields[name] = bytearray()
        self._write = lambda data: _extend(name, content, data)

    def _write_file(self, data: bytes) -> None:
        assert self._file is not None
        before, after = self._file.bytes, self._file.bytes + len(data)
        if after > self._max_bytes:
            raise _too_large(self._max_bytes)
        if before // ROOM_CHECK_BYTES < after // ROOM_CHECK_BYTES and self._free_bytes() < SPARE_BYTES:
            raise DiskFull(f"the file store ran out of room {before} bytes into an upload")
        self._file.write(data)


def _boundary(request: Request) -> bytes:
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType(
            "send multipart/form-data with the recording in the form field `file`, or application/json with its URL as `source`"
        )
    boundary = request.mimetype_params.get("boundary", "")
    if not boundary or not boundary.isascii():
        raise BadRequest("the Content-Type names no boundary")
    return boundary.encode()


def _events(stream: IO[bytes], boundary: bytes) -> Iterator[Event]:
    decoder = MultipartDecoder(boundary, BUFFER_BYTES, max_parts=MOST_PARTS)
    try:
        for chunk in _chunks(stream):
            decoder.receive_data(chunk)
            while not isinstance(event := decoder.next_event(), NeedData | Epilogue):
                yield event
    except UnicodeDecodeError:
        raise BadRequest("the form is broken: the head of a part, with its filename, is not UTF-8") from None
    except ValueError:
        raise BadRequest("the form is broken or ends too early") from None


def _chunks(stream: IO[bytes]) -> Iterator[bytes | None]:
    """What comes in, then None for its end."""
    while True:
        try:
            chunk = stream.read(CHUNK_BYTES)
        except ClientDisconnected as gone:  # what werkzeug makes of every error of the socket
            if isinstance(gone.__context__, TimeoutError):
                raise RequestTimeout("the upload stood still for too long") from None
            raise BadRequest("the upload broke off") from None
        yield chunk or None
        if not chunk:
            return


def _with_source(fields: dict[str, str]) -> dict[str, str]:
    if not fields.get("source"):
        raise InvalidRequest("there is no file: send the recording as the form field `file`, or its URL as `source`", field="file")
    return fields


def _extend(name: str, content: bytearray, data: bytes) -> None:
    if len(content) + len(data) > FIELD_BYTES:
        raise InvalidRequest(f"{name} is longer than {FIELD_BYTES // 1024} kB", field=name)
    content.extend(data)


def _text(name: str, content: bytearray) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"{name} is not UTF-8", field=name) from None


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the upload is larger than {max_bytes} bytes, the most that is taken here: send a compressed recording")
