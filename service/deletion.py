"""Deleting a job with all that belongs to it, so that nothing is left and a call that failed may be repeated."""

from core.errors import StorageUnavailable
from core.job import Job
from core.job_files import delete_all
from core.log import logger
from service.collaborators import Collaborators


def delete(job: Job, given: Collaborators) -> None:
    """The files first: with the record gone nobody would know of them. Raises `StorageUnavailable`, `StoreUnavailable`."""
    delete_all(given.files, job.id, job.source)
    given.jobs.delete(job.id)
    if not job.state.is_terminal:
        forget_files(given, job.id)  # what its runner, or the fetch of its source, has stored meanwhile


def delete_broken(job_id: str, given: Collaborators) -> None:
    """Of a job whose record nobody can read; an upload that was its source is found by the look for orphans."""
    given.files.delete_job(job_id)
    given.jobs.delete(job_id)


def forget_files(given: Collaborators, job_id: str) -> None:
    """A file that stays behind must not hide what became of the request."""
    try:
        given.files.delete_job(job_id)
    except StorageUnavailable as error:
        logger("service").warning("files_not_deleted", job_id=job_id, reason=str(error))
