"""Opens the file store that the settings name."""

from core.bucket_file_store import BucketFileStore
from core.file_store import FileStore
from core.gcs import CloudStorage
from core.gs_address import Place
from core.local_file_store import LocalFileStore
from core.settings import Settings


def open_file_store(settings: Settings) -> FileStore:
    """Reaches no other machine. Raises `SettingsError`."""
    if settings.file_store is None:
        return LocalFileStore(settings.file_store_dir)
    return BucketFileStore(CloudStorage(settings.gcs_credentials), Place.parse(settings.file_store), settings.file_store_dir)
