"""Deleting a job with all that belongs to it, so that nothing is left and a call that failed may be repeated."""

from core.errors import StorageUnavailable
from core.file_store import upload_key
from core.job import Job
from core.log import logger
from service.collaborators import Collaborators
from service.signed_addresses import upload_of


def delete(job: Job, given: Collaborators) -> None:
    """The files first: with the record gone nobody would know of them. Raises `StorageUnavailable`, `StoreUnavailable`."""
    given.files.delete_job(job.id)
    if upload_id := upload_of(job, given.files):
        given.files.delete(upload_key(upload_id))
    given.jobs.delete(job.id)
    if not job.state.is_terminal:
        forget_files(given, job.id)  # what its runner, or the fetch of its source, has stored meanwhile


def forget_files(given: Collaborators, job_id: str) -> None:
    """A file that stays behind must not hide what became of the request."""
    try:
        given.files.delete_job(job_id)
    except StorageUnavailable as error:
        logger("service").warning("files_not_deleted", job_id=job_id, reason=str(error))
