"""Transcripts written where their client asked for them, in every format."""

from collections.abc import Callable

from core.errors import CallerError, TranscriptNotReady
from core.job_files import read_result
from core.outbox import Answer, Delivery, DeliveryState
from core.render import Format, render
from core.transcript import Transcript
from dispatcher.sending import Tried, failed, stopped

Read = Callable[[str], bytes]  # a key in the file store → its content; raises FileNotFoundError
DeliverGs = Callable[[str, str, bytes], None]  # prefix, name, content; the same again is no error


class OutputSender:
    """A `Send`; as safe to be called from several threads as what it is given."""

    def __init__(self, read: Read, deliver_gs: DeliverGs) -> None:
        self._read, self._deliver_gs = read, deliver_gs

    def __call__(self, delivery: Delivery, check: Callable[[], None]) -> Tried:
        job = delivery.job
        if job.result_key is None:
            return stopped("the job ended without a transcript")
        try:
            transcript = Transcript.model_validate_json(read_result(self._read, job))
        except TranscriptNotReady as error:
            return stopped(str(error))
        try:
            for form in Format:
                check()
                self._deliver_gs(delivery.owed.target, f"{job.id}.{form}", render(transcript, form).encode())
        except CallerError as error:
            return failed(str(error))
        return Tried(DeliveryState.DELIVERED, Answer())
