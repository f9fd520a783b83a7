"""Brings the sources of jobs into the file store: a few at once, each in a thread of its own that never asks Redis anything."""

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from time import monotonic

from core.errors import (
    CallerError,
    DiskFull,
    JobNotFound,
    OurError,
    SourceRefused,
    SourceUnreachable,
    SpillwayError,
    StorageUnavailable,
    StoreUnavailable,
)
from core.fetches import Fetches
from core.file_store import FileStore, fetched_key
from core.job import Fetched, Job, JobFailure, JobState, check_duration
from core.job_store import JobStore
from core.leased import Lease
from core.log import logger
from core.media import Ffmpeg
from core.partial_file import StoredFile
from dispatcher.landing import Fetch, Interrupted, Landing

log = logger("dispatcher.fetching")
MOST_FAILURES = 5
FIRST_PAUSE_S, PAUSE_FACTOR = 10.0, 4.0  # 10 s, 40 s, 3 min, 11 min: over within the hour, and a restart of a server is outlived
LONGEST_PAUSE_S = 1800.0  # of those that a server asks for
RESUME_PAUSE_S = 1.0
PROGRESS_BYTES = 64 * 1024**2  # a try that brought so much is no failure; 4 GB are 64 such tries, so it ends all the same
FULL_DISK_PAUSE_S = 30.0
STORE_PAUSE_S = 10.0  # while the bucket of the file store is away
STOP_S = 5.0  # the threads look up every 0.5 s
MOST_KEPT = 16  # half sources that wait for their next try

Commit = Callable[[], JobState | None]


@dataclass(frozen=True)
class Limits:
    most_at_once: int
    max_bytes: int
    max_duration_s: float
    heartbeat_s: float


@dataclass(frozen=True)
class Stores:
    fetches: Fetches
    jobs: JobStore
    files: FileStore


@dataclass(frozen=True)
class Outcome:
    word: str  # for the log
    commit: Commit  # what becomes of the job; None when the fetch was lost meanwhile
    keeps_landing: bool = False


class Stopped(Exception):
    """Nobody waits for this fetch any more."""


@dataclass
class Flight:
    """One fetch under way. The thread writes `outcome` last, the loop reads it."""

    job: Job
    landing: Landing
    began: float
    stopping: threading.Event = field(default_factory=threading.Event)
    outcome: Outcome | None = None
    thread: threading.Thread | None = None

    def check(self) -> None:
        if self.stopping.is_set():
            raise Stopped


class Fetcher:
    """`step` asks Redis and starts threads, and waits for neither network nor disk; so all that Redis hears comes from one thread."""

    def __init__(
        self,
        stores: Stores,
        ffmpeg: Ffmpeg,
        schemes: Mapping[str, Fetch],
        lease: Lease,
        *,
        limits: Limits,
        pause_s: Callable[[int], float] | None = None,
    ) -> None:
        """`pause_s` tells from the number of failures how long to wait for the next try."""
        self._fetches, self._jobs, self._files = stores.fetches, stores.jobs, stores.files
        self._ffmpeg, self._schemes, self._lease, self._limits = ffmpeg, schemes, lease, limits
        self._pause_s = pause_s or pause_after
        self._flights: dict[str, Flight] = {}
        self._kept: dict[str, Landing] = {}
        self._renewed = 0.0

    def step(self) -> None:
        """Raises `StoreUnavailable`; what had ended by then is committed by a later step."""
        self._settle()
        self._beat()
        self._tidy()
        while len(self._flights) < self._limits.most_at_once and (job := self._fetches.claim(self._lease)):
            self._start(job)

    def close(self) -> None:
        """Hands back what is under way, as far as Redis answers; else its leases expire."""
        for flight in self._flights.values():
            flight.stopping.set()
        deadline = monotonic() + STOP_S
        for flight in self._flights.values():
            if flight.thread:
                flight.thread.join(max(0.0, deadline - monotonic()))
        try:
            self._settle()
            for flight in self._flights.values():
                self._fetches.release(flight.job)
        except StoreUnavailable as error:
            log.warning("fetches not handed back: their leases will expire", reason=str(error))
        for landing in self._kept.values():
            landing.discard()

    # The loop's side

    def _start(self, job: Job) -> None:
        if (running := self._flights.pop(job.id, None)) is not None:  # our own lease ran out while Redis was away
            running.stopping.set()
        landing = self._kept.pop(job.id, None) or Landing(self._files, fetched_key(job.id, job.fetch), max_bytes=self._limits.max_bytes)
        flight = Flight(job, landing, monotonic())
        flight.thread = threading.Thread(target=self._fly, args=(flight,), name=f"fetch-{job.id}", daemon=True)
        self._flights[job.id] = flight
        log.info("fetch started", job_id=job.id, fetch=job.fetch, bytes=landing.arrived_bytes)
        flight.thread.start()

    def _settle(self) -> None:
        for flight in list(self._flights.values()):
            if flight.outcome is None:
                continue
            state = flight.outcome.commit()
            del self._flights[flight.job.id]
            seconds = round(monotonic() - flight.began, 2)
            log.info("fetch ended", job_id=flight.job.id, fetch=flight.job.fetch, outcome=flight.outcome.word, now=state, seconds=seconds)
            if state == JobState.QUEUED and flight.outcome.keeps_landing:
                self._kept[flight.job.id] = flight.landing
            elif state is None:
                self._forget(flight)
            else:
                flight.landing.discard()

    def _beat(self) -> None:
        flights = list(self._flights.values())
        is_due = monotonic() - self._renewed >= self._limits.heartbeat_s
        held = self._fetches.beat([flight.job for flight in flights], lease_s=self._lease.lease_s, renew=is_due)
        if is_due:
            self._renewed = monotonic()
        for flight, is_held in zip(flights, held, strict=True):
            if not is_held:
                flight.stopping.set()

    def _tidy(self) -> None:
        """Half a source is dropped when its job ended meanwhile, and the oldest when there are many."""
        waiting = self._fetches.waiting(self._kept)
        for job_id in [job_id for job_id in self._kept if job_id not in waiting] + list(self._kept)[:-MOST_KEPT]:
            if landing := self._kept.pop(job_id, None):
                landing.discard()

    def _forget(self, flight: Flight) -> None:
        """What a lost fetch has stored goes, in a thread of its own: the file store may be a bucket."""
        flight.landing.discard()
        job_id, key = flight.job.id, flight.landing.key
        try:
            self._jobs.get(job_id)
            delete = partial(self._files.delete, key)
        except JobNotFound:  # deleted while a folder of it was made
            delete = partial(self._files.delete_job, job_id)
        threading.Thread(target=_tidied, args=(job_id, delete), name=f"forget-{job_id}").start()

    # The thread's side

    def _fly(self, flight: Flight) -> None:
        """Catches everything: whatever breaks, the job gets an answer."""
        before = flight.landing.arrived_bytes
        try:
            outcome = self._brought(flight)
        except Interrupted as error:
            outcome = self._again(flight, error, before)
        except Stopped:
            flight.landing.discard()
            outcome = Outcome("stopped", lambda: self._fetches.release(flight.job))
        except DiskFull as error:
            log.error("disk full: a fetch waits", job_id=flight.job.id, reason=str(error), seconds=FULL_DISK_PAUSE_S)
            outcome = self._dropped(flight, "disk_full", lambda: self._fetches.release(flight.job, pause_s=FULL_DISK_PAUSE_S))
        except CallerError as error:
            failure = JobFailure(code=error.code, message=_said_of(error))
            outcome = self._dropped(flight, error.code, lambda: self._fetches.fail(flight.job, failure))
        except Exception as error:
            log.exception("fetch broke", job_id=flight.job.id)
            outcome = self._dropped(flight, "broke", self._retry(flight.job, _our_failure(error), 0.0))
        flight.outcome = outcome

    def _brought(self, flight: Flight) -> Outcome:
        job, landing = flight.job, flight.landing
        scheme = (job.source or "").partition(":")[0]
        if scheme not in self._schemes:
            raise SourceRefused(
                f"{scheme}:// sources cannot be fetched by this version: give a signed https:// URL, or upload the recording"
            )
        self._schemes[scheme](job.source or "", landing, flight.check)
        flight.check()
        duration_s = self._ffmpeg.probe(landing.path()).duration_s  # where it came down: what is refused goes no further
        check_duration(duration_s, job.options, self._limits.max_duration_s)
        stored = self._stored(flight)
        fetched = Fetched(duration_s=duration_s, input_key=stored.key, input_bytes=stored.bytes, input_sha256=stored.sha256)
        return Outcome("fetched", lambda: self._fetches.complete(job, fetched))

    def _stored(self, flight: Flight) -> StoredFile:
        """A bucket that is away is waited for: what has come is not fetched again for that."""
        while True:
            try:
                return flight.landing.keep()
            except StorageUnavailable as error:
                log.error("file store away: a fetch waits", job_id=flight.job.id, reason=str(error), seconds=STORE_PAUSE_S)
                flight.stopping.wait(STORE_PAUSE_S)
                flight.check()

    def _again(self, flight: Flight, why: Interrupted, before: int) -> Outcome:
        job, landing = flight.job, flight.landing
        if not landing.validator:
            landing.discard()  # its server would begin anew in any case
        if landing.arrived_bytes - before >= PROGRESS_BYTES:
            return Outcome("interrupted", lambda: self._fetches.release(job, pause_s=RESUME_PAUSE_S), keeps_landing=True)
        log.warning("source not fetched", job_id=job.id, failures=job.fetch_failures + 1, reason=str(why))
        said = f"the source could not be fetched in {job.fetch_failures + 1} tries: at last {why}"
        failure = JobFailure(code=SourceUnreachable.code, message=said)
        return Outcome("interrupted", self._retry(job, failure, why.after_s), keeps_landing=True)

    def _retry(self, job: Job, failure: JobFailure, after_s: float) -> Commit:
        pause_s = max(self._pause_s(job.fetch_failures), min(after_s, LONGEST_PAUSE_S))
        return lambda: self._fetches.retry(job, failure, pause_s=pause_s, max_failures=MOST_FAILURES)

    def _dropped(self, flight: Flight, word: str, commit: Commit) -> Outcome:
        """Nothing of the source stays."""
        flight.landing.discard()
        _tidied(flight.job.id, partial(self._files.delete, flight.landing.key))
        return Outcome(word, commit)


def pause_after(failures: int) -> float:
    """Grows by four from try to try; a quarter of chance, so that many sources of one server do not come back together."""
    return FIRST_PAUSE_S * PAUSE_FACTOR**failures * random.uniform(0.75, 1.25)


def _tidied(job_id: str, delete: Callable[[], None]) -> None:
    """A file that stays behind goes with its job."""
    try:
        delete()
    except StorageUnavailable as error:
        log.warning("files not deleted", job_id=job_id, reason=str(error))


def _said_of(error: CallerError) -> str:
    match error:
        case SourceRefused():
            return f"the source was refused: {error}"
        case SourceUnreachable():
            return f"the source could not be fetched: {error}"
        case _:
            return str(error)


def _our_failure(error: Exception) -> JobFailure:
    code = error.code if isinstance(error, OurError) else SpillwayError.code
    return JobFailure(code=code, message="Something broke on our side while the source was fetched: the log has the details.")
