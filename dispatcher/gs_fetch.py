"""Fetches gs:// sources with this installation's own account."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from core.errors import ObjectRefused, StorageUnavailable
from core.file_store import JOBS
from core.gcs import CloudStorage, crc32c
from core.gs_address import Place
from core.gs_transfers import fetch_object, find_object
from dispatcher.landing import Interrupted, Landing


class GsFetch:
    """A `Fetch`; safe to be called from several threads.

    Only a server that has gone silent keeps it from its `check`, for as long as `Patience.silence_s`.
    """

    def __init__(self, storage: CloudStorage, own: Place | None) -> None:
        """`own` is where this installation keeps files: the jobs in it are other callers' too."""
        self._storage, self._own = storage, own

    def __call__(self, source: str, landing: Landing, check: Callable[[], None]) -> None:
        place = Place.parse(source)
        self._refuse_jobs(place)
        with _translated():
            found = find_object(self._storage, place)
            if landing.validator != found.generation:
                landing.begin(found.generation)
            landing.expect(found.size_bytes - landing.arrived_bytes)
            fetch_object(self._storage, place, found, landing.write, start=landing.arrived_bytes, check=check)
        with landing.path().open("rb") as content:
            if crc32c(content, check) != found.crc32c:
                landing.discard()
                raise Interrupted("it arrived damaged: its checksum is another")

    def _refuse_jobs(self, place: Place) -> None:
        if self._own and place.is_within(self._own.under(JOBS)):
            raise ObjectRefused(f"{place} belongs to a job of this installation: name the recording that it was made from")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except StorageUnavailable as error:
        raise Interrupted(str(error)) from error
