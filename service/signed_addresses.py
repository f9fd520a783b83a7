"""What clients bring to the bucket, or take from it, by themselves: the bytes go by no service."""

from core.bucket_file_store import BucketFileStore
from core.errors import Unsupported
from core.file_store import FileStore


def signing(files: FileStore, *, instead: str) -> BucketFileStore:
    """Raises `Unsupported` where files are on this installation's own disk."""
    if not isinstance(files, BucketFileStore):
        raise Unsupported(f"this installation keeps its files on its own disk, not in a bucket: {instead}")
    return files
