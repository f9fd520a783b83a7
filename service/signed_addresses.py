"""What clients bring to the bucket, or take from it, by themselves: the bytes go by no service."""

from core.bucket_file_store import BucketFileStore
from core.errors import Unsupported
from core.file_store import UPLOADS, FileStore
from core.job import Job


def signing(files: FileStore, *, instead: str) -> BucketFileStore:
    """Raises `Unsupported` where files are on this installation's own disk."""
    if not isinstance(files, BucketFileStore):
        raise Unsupported(f"this installation keeps its files on its own disk, not in a bucket: {instead}")
    return files


def upload_of(job: Job, files: FileStore) -> str | None:
    """The id of the upload that is the job's source, where it was brought by a signed address."""
    if job.source is None or not isinstance(files, BucketFileStore):
        return None
    upload_id = job.source.removeprefix(f"{files.place(UPLOADS)}/")
    return upload_id if upload_id != job.source and upload_id.isalnum() else None
