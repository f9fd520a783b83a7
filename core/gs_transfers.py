"""Objects that a caller names: recordings read from `gs://`, results written there. What is wrong with them is the caller's to mend."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO

from core.errors import BucketDenied, ObjectRefused
from core.file_store import never
from core.gcs import CloudStorage, Found
from core.gs_address import Place


def find_object(storage: CloudStorage, source: Place) -> Found:
    """Raises `ObjectRefused`, and what `CloudStorage` raises for reasons of ours, as all here."""
    with _callers(source):
        return storage.look_up(source)


def fetch_object(
    storage: CloudStorage, source: Place, found: Found, write: Callable[[bytes], object], *, start: int, check: Callable[[], None] = never
) -> None:
    """The rest of one version, from `start` on; the checksum of the whole is the caller's to hold.

    A break is repaired in place: the request is repeated from where it broke.
    """
    with _callers(source):
        for piece in storage.pieces(source, found, start=start, check=check):
            write(piece)


def deliver_object(storage: CloudStorage, target: Place, content: bytes, *, replaces: bool = False, content_type: str) -> None:
    """May be repeated: the same content again is no error."""
    with _callers(target):
        storage.upload(target, BytesIO(content), replaces=replaces, content_type=content_type)


@contextmanager
def _callers(place: Place) -> Iterator[None]:
    try:
        yield
    except BucketDenied as error:
        raise ObjectRefused(str(error)) from error
    except FileNotFoundError as error:
        raise ObjectRefused(f"there is no {place}: check the address") from error
    except FileExistsError as error:
        raise ObjectRefused(f"{place} is there already with other content: name another prefix") from error
