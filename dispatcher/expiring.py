"""Deletes what ended jobs have kept for long enough: a portion at a time, the files by threads that never ask Redis anything."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from time import monotonic

from core.errors import StorageUnavailable
from core.file_store import FileStore
from core.job_files import delete_all, delete_inputs, delete_products
from core.log import logger
from core.retention import Expired, Kept, Retention

log = logger("dispatcher.expiring")
MOST_AT_ONCE = 100  # jobs of one portion, one portion a sweep: 200 kept Redis from everybody else for 70 ms on two busy cores
THREADS = 4  # a bucket answers each of several requests per job in some 50 ms
PAUSE_S = 30.0  # after a file store that would not delete

Lifetimes = Mapping[Kept, float | None]  # in seconds from a job's end; None for ever


@dataclass(frozen=True)
class Portion:
    kept: Kept
    deletions: dict[str, Future[None]]  # by job

    @property
    def is_over(self) -> bool:
        return all(deletion.done() for deletion in self.deletions.values())


class Expirer:
    """`step` asks Redis and waits for no file; so a slow file store holds no other step up.

    Files go first, then what the record says of them: killed between the two, the next leader does the same once more.
    """

    def __init__(self, retention: Retention, files: FileStore, lifetimes: Lifetimes, *, most_at_once: int = MOST_AT_ONCE) -> None:
        self._retention, self._files, self._most = retention, files, most_at_once
        ending = {kept: lifetime_s for kept, lifetime_s in lifetimes.items() if lifetime_s is not None}
        self._turns, self._kinds = cycle(ending.items()), len(ending)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="expiring")
        self._portion: Portion | None = None
        self._resume_at = 0.0

    def step(self) -> None:
        """Raises `StoreUnavailable`; what was deleted by then is deleted once more, and told, by a later step."""
        if self._portion and self._portion.is_over:
            self._settle(self._portion)
            self._portion = None
        if self._portion is None and monotonic() >= self._resume_at:
            self._portion = self._next_portion()

    def close(self) -> None:
        """What has not begun is left to the next leader."""
        self._threads.shutdown(cancel_futures=True)

    def _next_portion(self) -> Portion | None:
        """Of the kind whose turn it is, so that none that cannot be deleted stands before the others."""
        for _ in range(self._kinds):
            kept, lifetime_s = next(self._turns)
            if expired := self._retention.expired(kept, lifetime_s=lifetime_s, limit=self._most):
                delete = self._deletion(kept)
                return Portion(kept, {each.job_id: self._threads.submit(delete, each) for each in expired})
        return None

    def _deletion(self, kept: Kept) -> Callable[[Expired], None]:
        match kept:
            case Kept.INPUTS:
                return lambda job: delete_inputs(self._files, job.job_id, job.source)
            case Kept.PRODUCTS:
                return lambda job: delete_products(self._files, job.job_id, job.result_key)
            case Kept.RESULTS:
                return lambda job: delete_all(self._files, job.job_id, job.source)

    def _settle(self, portion: Portion) -> None:
        gone = []
        refused: StorageUnavailable | None = None
        for job_id, deletion in portion.deletions.items():
            try:
                deletion.result()
            except StorageUnavailable as error:
                refused = error
            else:
                gone.append(job_id)
        self._retention.let_go(portion.kept, gone)
        if gone:
            log.info("expired", kept=portion.kept, jobs=len(gone))
        if refused:
            self._resume_at = monotonic() + PAUSE_S
            left = len(portion.deletions) - len(gone)
            log.warning("files not deleted", kept=portion.kept, jobs=left, reason=str(refused), seconds=PAUSE_S)
