"""Every error that crosses a seam.

SpillwayError
├── CallerError                the caller's: never retried, the message is shown and says what to do
│   ├── InvalidRequest         400, 422
│   │   ├── UnknownOption
│   │   └── Unsupported        422: not by this installation, as it is set up
│   ├── InvalidMedia           415, 422: no audio in it, or not decodable
│   ├── ObjectRefused          422: a gs:// object that the caller named cannot be read or written
│   ├── TooLarge               413
│   │   └── SourceTooLarge     a source of more bytes than are taken
│   ├── SourceRefused          a source at an address that must not be reached
│   ├── SourceUnreachable      a source that its server does not give
│   ├── Unauthorized           401: no API key, or none that is good
│   ├── Forbidden              403: the key's scope is not enough
│   ├── JobNotFound            404
│   ├── TranscriptNotReady     409
│   ├── IdempotencyConflict    409
│   ├── RateLimited            429 with Retry-After
│   ├── TooManyJobs            429 with Retry-After
│   ├── TooManyOpen            429 with Retry-After
│   ├── QueueFull              503 with Retry-After
│   ├── ServiceBusy            503 with Retry-After
│   ├── SettingsError          a process does not start
│   └── ModelMissing           the model files are not there, or not what was recorded
│       └── ModelSourceAway    where they come from does not answer: a later try may
└── OurError                   ours: retried, generic outside, detailed in the log
    ├── StoreUnavailable       503: Redis is away
    ├── RecordBroken           500: what Redis holds of a job cannot be read
    ├── DiskFull               507
    ├── StorageUnavailable     503: the bucket does not answer, or has had enough for the moment; the disk is gone or read-only
    │   └── StorageDenied      no, wrong or expired credentials
    │       └── BucketDenied   the bucket is not there, or not ours to use
    ├── InputLost              the recording is not in the file store any more as it was accepted
    ├── OutOfMemory            the device's memory does not hold one window
    └── EngineFailed           a stage of the engine broke
LeaseLost                      not an error to show: another runner owns the job
├── JobCancelled               its client cancelled it
└── Overdue                    the call that it runs in has used up its time
"""


class SpillwayError(Exception):
    """Carries a stable `code` for machines beside the message for people."""

    code = "internal_error"


class CallerError(SpillwayError):
    """The caller can mend it."""

    code = "invalid_request"


class InvalidRequest(CallerError):
    """The request is not what the API takes; `field` names the part, where there is one."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class UnknownOption(InvalidRequest):
    """A field that the API does not know: refused by name, so that a typing error is not a silent default."""

    code = "unknown_option"


class Unsupported(InvalidRequest):
    """This installation, as its operator set it up, does not do that; the message says what to do instead."""

    code = "unsupported"


class InvalidMedia(CallerError):
    """The upload holds no audio that can be decoded."""

    code = "invalid_media"


class ObjectRefused(CallerError):
    """A `gs://` object that the caller named is not there, is not ours to read or write, or changed meanwhile; the message says which."""

    code = "object_refused"


class TooLarge(CallerError):
    """More bytes or a longer recording than this installation takes."""

    code = "too_large"


class SourceTooLarge(TooLarge):
    """What the source sends is more than this installation takes."""

    code = "source_too_large"


class SourceRefused(CallerError):
    """An address, port or scheme that nothing of a client's may be fetched from or sent to."""

    code = "source_refused"


class SourceUnreachable(CallerError):
    """The source's server cannot be found, refuses, or breaks off again and again."""

    code = "source_unreachable"


class Unauthorized(CallerError):
    """The call carries no API key, or none that is known here and not revoked."""

    code = "unauthorized"


class Forbidden(CallerError):
    """The caller is known, and may not do this."""

    code = "forbidden"


class JobNotFound(CallerError):
    """There is no such job, it was deleted, or it is another API key's."""

    code = "job_not_found"


class TranscriptNotReady(CallerError):
    """The job has no transcript: not yet, or never."""

    code = "transcript_not_ready"


class IdempotencyConflict(CallerError):
    """The same Idempotency-Key came before with a different request."""

    code = "idempotency_conflict"


class RateLimited(CallerError):
    """The API key has sent its requests of this minute, or the address its wrong keys."""

    code = "rate_limited"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooManyJobs(CallerError):
    """As many jobs of the API key wait and run as one key may have."""

    code = "too_many_jobs"
    retry_after_s = 30


class TooManyOpen(CallerError):
    """The API key has as many uploads or event streams open as one key may have."""

    code = "too_many_open"
    retry_after_s = 2


class QueueFull(CallerError):
    """The queue holds as many jobs as it may."""

    code = "queue_full"
    retry_after_s = 30


class ServiceBusy(CallerError):
    """As many uploads or event streams are open as there may be."""

    code = "service_busy"
    retry_after_s = 2


class SettingsError(CallerError):
    """A variable is wrong: the process does not start, and says which."""

    code = "wrong_setting"


class ModelMissing(CallerError):
    """A model's files are missing, incomplete, gated or not those that were recorded; the message says how to get them."""

    code = "model_missing"


class ModelSourceAway(ModelMissing):
    """The network, or the host that the files come from, is away."""


class OurError(SpillwayError):
    """Not the caller's to mend."""


class StoreUnavailable(OurError):
    """Redis does not answer, or refuses writes."""

    code = "store_unavailable"
    retry_after_s = 5


class RecordBroken(OurError):
    """A job's record lost a part, by a hand or a foreign program in Redis; the message is safe to show and says what to do."""

    code = "record_broken"


class DiskFull(OurError):
    """The file store has no room."""

    code = "disk_full"


class StorageUnavailable(OurError):
    """Google Cloud Storage does not answer, or asks to be left alone for a while; the disk is gone, read-only or not ours."""

    code = "storage_unavailable"

    def __init__(self, message: str, *, retry_after_s: int = 30) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StorageDenied(StorageUnavailable):
    """Google Cloud Storage does not take our credentials, or there are none: the operator mends it, meanwhile jobs wait."""

    code = "storage_denied"


class BucketDenied(StorageDenied):
    """The bucket is not there, or our account may not do that in it; the message names account, permission and role."""


class InputLost(OurError):
    """The file store has lost a recording that was accepted, or damaged it; the message is safe to show and says what to do."""

    code = "input_lost"


class OutOfMemory(OurError):
    """The device ran out of memory at the smallest batch."""

    code = "out_of_memory"


class EngineFailed(OurError):
    """A stage of the engine broke; `stage` says which."""

    code = "engine_failed"

    def __init__(self, message: str, *, stage: str) -> None:
        super().__init__(message)
        self.stage = stage


class LeaseLost(Exception):
    """The attempt no longer owns its job: drop the work, touch nothing."""


class JobCancelled(LeaseLost):
    """The client cancelled the job while it ran."""


class Overdue(LeaseLost):
    """The call on Modal that the attempt runs in has used up its time: the job is handed back."""

    code = "overdue"
