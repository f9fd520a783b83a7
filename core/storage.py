"""Opens the file store that the settings name."""

from core.bucket_file_store import BucketFileStore
from core.file_store import FOLDERS, FileStore
from core.gcs import CloudStorage
from core.gs_address import Place
from core.local_file_store import LocalFileStore
from core.settings import Settings


def bucket_of(settings: Settings) -> Place | None:
    """Where files are, when they are in a bucket."""
    return None if settings.file_store is None else Place.parse(settings.file_store)


def open_file_store(settings: Settings) -> FileStore:
    """Reaches no other machine."""
    if (bucket := bucket_of(settings)) is None:
        return LocalFileStore(settings.file_store_dir)
    return BucketFileStore(CloudStorage(settings.gcs_credentials), bucket, settings.file_store_dir)


def is_ours(place: Place, own: Place | None) -> bool:
    """Whether it lies where an installation whose files are under `own` keeps them."""
    return own is not None and any(place.is_within(own.under(folder)) for folder in FOLDERS)
