"""Brings the sources of jobs into the file store: a few at once, each in a thread of its own that never asks Redis anything."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from core.errors import (
    CallerError,
    DiskFull,
    InvalidMedia,
    JobNotFound,
    SourceRefused,
    StorageUnavailable,
    StoreUnavailable,
)
from core.fetches import Fetches
from core.file_store import FileStore, fetched_key
from core.job import ANONYMOUS, Fetched, Job, JobFailure, JobState, check_duration
from core.job_store import JobStore
from core.leased import Lease
from core.log import logger
from core.media import Ffmpeg
from core.partial_file import StoredFile
from dispatcher.fetch_failures import WEB_PAGE, failure_of, given_up, is_web_page
from dispatcher.flights import Flight, Flights, Stopped
from dispatcher.landing import Fetch, Interrupted, Landing

log = logger("dispatcher.fetching")
MOST_FAILURES = 5
FIRST_PAUSE_S, PAUSE_FACTOR = 10.0, 4.0  # 10 s, 40 s, 3 min, 11 min: over within the hour, and a restart of a server is outlived
LONGEST_PAUSE_S = 1800.0  # of those that a server asks for
RESUME_PAUSE_S = 1.0
PROGRESS_BYTES = 64 * 1024**2  # a try that brought so much is no failure; 4 GB are 64 such tries, so it ends all the same
FULL_DISK_PAUSE_S = 30.0
STORE_PAUSE_S = 10.0  # while the bucket of the file store is away
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


@dataclass(frozen=True)
class Fetching:
    """A job as it was claimed, and where its source comes down."""

    job: Job
    landing: Landing

    @property
    def id(self) -> str:
        return self.job.id


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
        self._flights = Flights[Fetching, Outcome](self._fetched, heartbeat_s=limits.heartbeat_s)
        self._kept: dict[str, Landing] = {}

    def step(self) -> None:
        """Raises `StoreUnavailable`; what had ended by then is committed by a later step."""
        self._flights.settle(self._commit)
        self._flights.beat(self._beat)
        self._tidy()
        while len(self._flights) < self._limits.most_at_once and (job := self._claimed()):
            self._start(job)

    def close(self) -> None:
        """Hands back what is under way, as far as Redis answers; else its leases expire."""
        self._flights.stop()
        try:
            self._flights.settle(self._commit)
            for flight in self._flights:
                self._fetches.release(flight.load.job)
        except StoreUnavailable as error:
            log.warning("fetches not handed back: their leases will expire", reason=str(error))
        for landing in self._kept.values():
            landing.discard()

    # The loop's side

    def _claimed(self) -> Job | None:
        """Of one API key at most half of all at once, so that its slow servers do not keep the others' sources waiting."""
        keys = Counter(flight.load.job.key_id for flight in self._flights)
        del keys[ANONYMOUS]  # who sends without a key has nobody to share with
        return self._fetches.claim(self._lease, under_way=keys, most_of_key=max(1, self._limits.most_at_once // 2))

    def _start(self, job: Job) -> None:
        landing = self._kept.pop(job.id, None) or Landing(self._files, fetched_key(job.id, job.fetch), max_bytes=self._limits.max_bytes)
        log.info("fetch started", job_id=job.id, fetch=job.fetch, bytes=landing.arrived_bytes)
        self._flights.start(Fetching(job, landing))

    def _commit(self, flight: Flight[Fetching, Outcome]) -> None:
        job, landing, outcome = flight.load.job, flight.load.landing, flight.outcome
        assert outcome is not None
        state = outcome.commit()
        log.info("fetch ended", job_id=job.id, fetch=job.fetch, outcome=outcome.word, now=state, seconds=flight.seconds)
        if state == JobState.QUEUED and outcome.keeps_landing:
            self._kept[job.id] = landing
        elif state is None:
            self._forget(flight.load)
        else:
            landing.discard()

    def _beat(self, held: Sequence[Fetching], renew: bool) -> tuple[bool, ...]:
        return self._fetches.beat([each.job for each in held], lease_s=self._lease.lease_s, renew=renew)

    def _tidy(self) -> None:
        """Half a source is dropped when its job ended meanwhile, and the oldest when there are many."""
        waiting = self._fetches.waiting(self._kept)
        for job_id in [job_id for job_id in self._kept if job_id not in waiting] + list(self._kept)[:-MOST_KEPT]:
            if landing := self._kept.pop(job_id, None):
                landing.discard()

    def _forget(self, lost: Fetching) -> None:
        """What a lost fetch has stored goes, in a thread of its own: the file store may be a bucket."""
        lost.landing.discard()
        job_id, key = lost.id, lost.landing.key
        try:
            self._jobs.get(job_id)
            delete = partial(self._files.delete, key)
        except JobNotFound:  # deleted while a folder of it was made
            delete = partial(self._files.delete_job, job_id)
        threading.Thread(target=_tidied, args=(job_id, delete), name=f"forget-{job_id}").start()

    # The thread's side

    def _fetched(self, flight: Flight[Fetching, Outcome]) -> Outcome:
        """Catches everything: whatever breaks, the job gets an answer."""
        job, landing = flight.load.job, flight.load.landing
        before = landing.arrived_bytes
        try:
            return self._brought(flight)
        except Interrupted as error:
            return self._again(flight.load, error, before)
        except Stopped:
            landing.discard()
            return Outcome("stopped", lambda: self._fetches.release(job))
        except DiskFull as error:
            log.error("disk full: a fetch waits", job_id=job.id, reason=str(error), seconds=FULL_DISK_PAUSE_S)
            return self._dropped(flight.load, "disk_full", lambda: self._fetches.release(job, pause_s=FULL_DISK_PAUSE_S))
        except CallerError as error:
            failure = failure_of(error)
            return self._dropped(flight.load, error.code, lambda: self._fetches.fail(job, failure))
        except Exception as error:
            log.exception("fetch broke", job_id=job.id)
            return self._dropped(flight.load, "broke", self._retry(job, failure_of(error), 0.0))

    def _brought(self, flight: Flight[Fetching, Outcome]) -> Outcome:
        job, landing = flight.load.job, flight.load.landing
        scheme = (job.source or "").partition(":")[0]
        if scheme not in self._schemes:
            raise SourceRefused(
                f"{scheme}:// sources cannot be fetched by this version: give a signed https:// URL, or upload the recording"
            )
        self._schemes[scheme](job.source or "", landing, flight.check)
        flight.check()
        duration_s = self._probed(landing.path())  # where it came down: what is refused goes no further
        check_duration(duration_s, job.options, self._limits.max_duration_s)
        stored = self._stored(flight)
        fetched = Fetched(duration_s=duration_s, input_key=stored.key, input_bytes=stored.bytes, input_sha256=stored.sha256)
        return Outcome("fetched", lambda: self._fetches.complete(job, fetched))

    def _probed(self, path: Path) -> float:
        try:
            return self._ffmpeg.probe(path).duration_s
        except InvalidMedia as error:
            if is_web_page(path):
                raise InvalidMedia(WEB_PAGE) from error
            raise

    def _stored(self, flight: Flight[Fetching, Outcome]) -> StoredFile:
        """A bucket that is away is waited for: what has come is not fetched again for that."""
        while True:
            try:
                return flight.load.landing.keep()
            except StorageUnavailable as error:
                log.error("file store away: a fetch waits", job_id=flight.load.id, reason=str(error), seconds=STORE_PAUSE_S)
                flight.stopping.wait(STORE_PAUSE_S)
                flight.check()

    def _again(self, tried: Fetching, why: Interrupted, before: int) -> Outcome:
        job, landing = tried.job, tried.landing
        if not landing.validator:
            landing.discard()  # its server would begin anew in any case
        if landing.arrived_bytes - before >= PROGRESS_BYTES:
            return Outcome("interrupted", lambda: self._fetches.release(job, pause_s=RESUME_PAUSE_S), keeps_landing=True)
        log.warning("source not fetched", job_id=job.id, failures=job.fetch_failures + 1, reason=str(why))
        return Outcome("interrupted", self._retry(job, given_up(why, job.fetch_failures + 1), why.after_s), keeps_landing=True)

    def _retry(self, job: Job, failure: JobFailure, after_s: float) -> Commit:
        pause_s = max(self._pause_s(job.fetch_failures), min(after_s, LONGEST_PAUSE_S))
        return lambda: self._fetches.retry(job, failure, pause_s=pause_s, max_failures=MOST_FAILURES)

    def _dropped(self, tried: Fetching, word: str, commit: Commit) -> Outcome:
        """Nothing of the source stays."""
        tried.landing.discard()
        _tidied(tried.id, partial(self._files.delete, tried.landing.key))
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
