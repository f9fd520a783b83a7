"""Taking a job in: the bytes durable, then probed, then the record, then the answer, then the wake-up."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

from flask import Request, g

from core.errors import Forbidden, InvalidRequest, QueueFull, StoreUnavailable, UnknownOption
from core.file_store import input_key
from core.job import Job, JobOptions, NewJob, Priority, check_duration
from core.log import logger
from core.partial_file import PartialFile
from core.urls import last_segment
from service.access import caller
from service.collaborators import Collaborators
from service.deletion import forget_files
from service.owed import deliveries_of
from service.source_requests import MEDIA_TYPE, checked_source, fields_of
from service.uploads import Upload, receive
from service.validation import checked_options, options_of, shown

TOO_MANY_UPLOADS = "too many uploads are under way: try again in a moment"


def accept(request: Request, given: Collaborators) -> tuple[Job, bool]:
    """The job, and whether an earlier request with the same Idempotency-Key made it. On any refusal nothing is left of the upload."""
    g.is_upload_unread = True
    _refuse_query(request)
    job_id, idempotency_key = uuid4().hex, _idempotency_key(request)
    if not idempotency_key:  # a repeat is answered even when there is no room
        _check_room(given)
    with ExitStack() as refused:
        new_job = _new_job(request, given, job_id)
        if new_job.source is None:
            refused.callback(forget_files, given, job_id)
        job = _recorded(given, new_job, idempotency_key, refused)
        if job.id == job_id:
            refused.pop_all()
    g.job_id = job.id
    return job, job.id != job_id


def wake_a_worker(given: Collaborators, job_id: str) -> None:
    """No error when it fails: the dispatcher's sweep wakes in its place."""
    if not given.wake():
        logger("service").warning("wake_up_not_sent", job_id=job_id)


def _check_room(given: Collaborators) -> None:
    """Spares the client an upload that would be refused at its end. Raises `TooManyJobs`, `QueueFull`."""
    given.jobs.check_room_for(caller().key_id, max_of_key=caller().max_jobs)
    backlog = given.jobs.backlog()
    queued = backlog.queued_jobs + backlog.fetching_jobs
    if queued >= given.settings.max_queued_jobs:
        raise QueueFull(f"the queue is full: {queued} jobs wait; try again later")


def _new_job(request: Request, given: Collaborators, job_id: str) -> NewJob:
    if request.mimetype == MEDIA_TYPE:
        fields = fields_of(request)
        return _from_source(fields, checked_options(fields), given, job_id)
    with given.long_requests.one(caller().key_id, TOO_MANY_UPLOADS):
        upload = receive(request, given.files, input_key(job_id), max_bytes=given.settings.max_upload_bytes)
        if upload.file is None:
            return _from_source(upload.fields, options_of(upload.fields), given, job_id)
        try:
            return _from_upload(upload, upload.file, given, job_id)
        finally:
            upload.file.discard()


def _from_source(fields: Mapping[str, Any], options: JobOptions, given: Collaborators, job_id: str) -> NewJob:
    _check_options(options, given.settings.asr_model)
    url = checked_source(fields["source"])
    return NewJob(
        id=job_id,
        key_id=caller().key_id,
        source=url,
        filename=last_segment(url),
        options=options,
        deliveries=deliveries_of(fields, given.settings),
    )


def _from_upload(upload: Upload, file: PartialFile, given: Collaborators, job_id: str) -> NewJob:
    options, deliveries = options_of(upload.fields), deliveries_of(upload.fields, given.settings)
    _check_options(options, given.settings.asr_model)
    duration_s = given.ffmpeg.probe(file.path()).duration_s  # where it grew: what is refused goes no further
    check_duration(duration_s, options, given.settings.max_duration_s)
    stored = file.keep()
    return NewJob(
        id=job_id,
        key_id=caller().key_id,
        duration_s=duration_s,
        filename=upload.filename,
        input_key=stored.key,
        input_bytes=stored.bytes,
        input_sha256=stored.sha256,
        options=options,
        deliveries=deliveries,
    )


def _recorded(given: Collaborators, new_job: NewJob, idempotency_key: str, refused: ExitStack) -> Job:
    settings = given.settings
    try:
        job, _ = given.jobs.submit(
            new_job,
            max_queued=settings.max_queued_jobs,
            max_of_key=caller().max_jobs,
            idempotency_key=idempotency_key,
            idempotency_ttl_s=settings.idempotency_ttl_s,
        )
    except StoreUnavailable:
        refused.pop_all()  # the record may have been written and only the reply lost: then the job needs its file
        raise
    return job


def _refuse_query(request: Request) -> None:
    """Options are not looked for there: one that was meant would be a silent default."""
    for name in request.args:
        field = shown(name)
        raise UnknownOption(f"{field!r} stands in the address: send options as fields of the form or of the JSON document", field=field)


def _idempotency_key(request: Request) -> str:
    key = request.headers.get("Idempotency-Key", "")
    if len(key) > 255 or not (key.isascii() and key.isprintable()):
        raise InvalidRequest("Idempotency-Key: at most 255 printable ASCII characters", field="Idempotency-Key")
    return key


def _check_options(options: JobOptions, running: str) -> None:
    """Raises `Forbidden`, `InvalidRequest`."""
    if options.priority == Priority.HIGH and not caller().goes_first:
        raise Forbidden("priority: this API key may not send jobs of priority high: leave the field out, or ask for a key that may")
    if options.model not in (None, running):
        raise InvalidRequest(f"model: this installation runs {running}; leave the field out", field="model")
