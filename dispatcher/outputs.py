"""Transcripts written where their client asked for them, in every format: nobody renders one on read out there."""

from collections.abc import Callable

from core.errors import CallerError, ObjectRefused, StorageUnavailable, TranscriptNotReady
from core.gcs import CloudStorage
from core.gs_address import Place
from core.gs_transfers import deliver_object
from core.job_files import read_result
from core.log import logger
from core.outbox import Answer, Delivery, DeliveryState
from core.render import MEDIA_TYPES, Format, render
from core.storage import is_ours
from core.transcript import Transcript
from dispatcher.sending import Tried, failed, stopped

log = logger("dispatcher.outputs")
ORDER = (*(form for form in Format if form != Format.JSON), Format.JSON)  # once the JSON is there, so are the others
Read = Callable[[str], bytes]  # a key in the file store → its content; raises FileNotFoundError, `StorageUnavailable`


class OutputSender:
    """A `Send`; safe to be called from several threads.

    Only a server that has gone silent keeps it from its `check`, for as long as `Patience.tries_s`.
    """

    def __init__(self, read: Read, storage: CloudStorage, own: Place | None) -> None:
        """`own` is where this installation keeps files: nothing of a client's is written there."""
        self._read, self._storage, self._own = read, storage, own

    def __call__(self, delivery: Delivery, check: Callable[[], None]) -> Tried:
        key = delivery.job.result_key
        if key is None:
            return stopped("the job ended without a transcript")
        try:
            transcript = Transcript.model_validate_json(read_result(self._read, delivery.job))
        except TranscriptNotReady as error:
            return stopped(str(error))
        except StorageUnavailable as error:
            log.error("file store away: an output waits", job_id=delivery.job.id, reason=str(error))
            return failed("the transcript cannot be read at the moment: the log has the details")
        try:
            self._write(transcript, delivery, check)
        except (CallerError, StorageUnavailable) as error:
            return failed(str(error))
        return Tried(DeliveryState.DELIVERED, Answer())

    def _write(self, transcript: Transcript, delivery: Delivery, check: Callable[[], None]) -> None:
        """Replaces nothing. What an earlier try has written is the same to the byte, and no error."""
        prefix = Place.parse(delivery.owed.target)
        if is_ours(prefix, self._own):
            raise ObjectRefused(f"{prefix} is where this installation keeps files of its own: name another prefix")
        for form in ORDER:
            check()
            content = render(transcript, form).encode()
            deliver_object(self._storage, prefix.under(f"{delivery.job.id}.{form}"), content, content_type=MEDIA_TYPES[form])
