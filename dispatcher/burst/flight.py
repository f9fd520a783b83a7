"""One call under way: a thread sends it, asks for its reply, and brings its results to the file store. It asks Redis for nothing but
to keep the call's id."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic, time
from typing import Protocol

from core.burst import Bundle, Outcome, Receipt, Reply
from core.bursts import Burst, Bursts
from core.errors import DiskFull, OurError, StorageUnavailable, StoreUnavailable
from core.job import Job
from core.log import logger
from dispatcher.burst.calls import CallFailed, Why
from dispatcher.burst.cargo import Cargo

log = logger("dispatcher.burst")
POLL_S = 1.0
AWAY_MOST_S = 300.0  # that a call whose state nobody can tell is waited for beyond its time


class Modal(Protocol):
    """As `calls.ModalCalls` is it."""

    def spawn(self, bundle: Bundle, recordings: Mapping[str, bytes]) -> str: ...
    def poll(self, call_id: str) -> Reply | None: ...
    def cancel(self, call_id: str) -> None: ...
    def limit(self, containers: int) -> None: ...
    def waiting_calls(self) -> int: ...
    def close(self) -> None: ...


class Recall(StrEnum):
    """Why a call is ended by us."""

    NOBODY_WANTS_IT = "nobody wants it any more"
    LOCAL_IS_IDLE = "a local GPU is idle"  # only if no container has begun it
    OVERDUE = "its time is up"
    GIVEN_UP = "another dispatcher had given it up"


class Meant(StrEnum):
    """Which container a call is handed over for."""

    NEW = "one that comes up for it"
    IDLE = "one that has nothing to do"
    NEXT = "the next that ends its call"


@dataclass(frozen=True)
class Landed:
    """How the call ended: a reply with the keys of the transcripts that came, our own recall, or a failure."""

    reply: Reply | None = None
    keys: Mapping[str, str] = field(default_factory=dict)  # by job id
    recall: Recall | None = None
    failure: CallFailed | None = None


@dataclass
class Flight:
    """The thread writes `landed` last, the loop reads it; the loop gives orders, the thread looks at them."""

    burst: Burst
    jobs: dict[str, Job]  # still ours, by id; the loop's alone
    began: float = field(default_factory=monotonic)
    unfit: tuple[Job, ...] = ()  # whose recordings cannot be sent
    is_offered: bool = False  # Modal was asked to take it
    call_id: str | None = None
    called: float | None = None  # by the monotonic clock
    called_at: float | None = None  # seconds since the epoch, as the container tells when it began
    sent_bytes: int = 0
    sent_s: float = 0.0
    meant: Meant = Meant.NEW
    freed: float | None = None  # by the monotonic clock, when the container that was the next became its own
    has_started: bool = False  # as far as Modal has said
    recall: Recall | None = None
    back_if_waiting: int = 0  # end it if so many calls wait for a container: then it is surely one of them
    stopping: threading.Event = field(default_factory=threading.Event)
    landed: Landed | None = None
    thread: threading.Thread | None = None

    @property
    def audio_s(self) -> float:
        return sum(job.work_s for job in self.jobs.values())


class Stopped(Exception):
    """The dispatcher stops, or another leads: the call goes on, and whoever comes after finds it."""


class Unsent(Exception):
    """There is nothing to be sent any more, and why."""

    def __init__(self, recall: Recall | None) -> None:
        super().__init__(recall)
        self.recall = recall


class Pilot:
    """Flies calls. Safe to be used from several threads."""

    def __init__(self, modal: Modal, bursts: Bursts, cargo: Cargo, *, startup_s: float, poll_s: float = POLL_S) -> None:
        """`startup_s`: how long a call may wait for a container and its models."""
        self._modal, self._bursts, self._cargo, self._startup_s, self._poll_s = modal, bursts, cargo, startup_s, poll_s
        self.containers: int | None = None  # that are wanted, as the loop last said

    def close(self) -> None:
        self._modal.close()

    def fly(self, flight: Flight) -> None:
        try:
            if flight.call_id is None:
                self._send(flight)
            flight.landed = self._home(flight)
        except Stopped:
            return
        except Unsent as unsent:
            flight.landed = Landed(recall=unsent.recall)
        except CallFailed as failure:
            flight.landed = Landed(failure=failure)
        except Exception as error:  # at this edge: a thread that dies silently would hold its jobs for ever
            log.exception("burst broke", burst=flight.burst.id)
            flight.landed = Landed(failure=CallFailed(Why.BROKE, f"the burst broke on our side ({type(error).__name__})"))

    def _send(self, flight: Flight) -> None:
        self._limit()  # before the packing, which looks whether the call is still wanted
        bundle, recordings = self._packed(flight)
        begun, flight.is_offered = monotonic(), True
        flight.call_id = self._modal.spawn(bundle, recordings)
        flight.called, flight.called_at, flight.sent_s = monotonic(), time(), monotonic() - begun
        flight.sent_bytes = sum(map(len, recordings.values()))
        if not self._keep_call_id(flight, flight.call_id):
            flight.recall = Recall.GIVEN_UP  # and settled it, while this one was still sending
        log.info("burst sent", burst=flight.burst.id, call=flight.call_id, jobs=len(bundle.jobs), seconds=round(flight.sent_s, 2))

    def _limit(self) -> None:
        """A call that is handed over while a container still works is meant for that one, and Modal would bring up another for it."""
        if self.containers is not None:
            try:
                self._modal.limit(self.containers)
            except CallFailed as failure:  # the call itself may go all the same, and the deployment has a limit too
                log.warning("Modal not told how many containers are wanted", reason=str(failure))

    def _packed(self, flight: Flight) -> tuple[Bundle, Mapping[str, bytes]]:
        def check() -> None:
            if flight.stopping.is_set():
                raise Stopped
            if flight.recall or flight.back_if_waiting:
                raise Unsent(flight.recall or Recall.LOCAL_IS_IDLE)

        try:
            bundle, recordings, unfit = self._cargo.packed(tuple(flight.jobs.values()), deadline_s=flight.burst.deadline_s, check=check)
        except (OurError, OSError) as error:  # of the file store, which is away: no fault of Modal's, but nothing can go there
            raise CallFailed(Why.AWAY, f"the recordings cannot be read: {error}") from error
        flight.unfit = tuple(unfit)
        check()
        if bundle is None:
            raise Unsent(None)
        return bundle, recordings

    def _keep_call_id(self, flight: Flight, call_id: str) -> bool:
        """However long Redis is away: who dies before has a call that nobody knows."""
        while True:
            try:
                return self._bursts.called(flight.burst.id, call_id)
            except StoreUnavailable:
                if flight.stopping.wait(self._poll_s):
                    raise Stopped from None

    def _home(self, flight: Flight) -> Landed:
        assert flight.call_id is not None
        is_away = False
        while not flight.stopping.is_set():
            try:
                if (landed := self._ended(flight, flight.call_id)) is not None:
                    return landed
                is_away = False
            except CallFailed as failure:
                if failure.why == Why.BROKE or self._overtime_s(flight) > AWAY_MOST_S:
                    raise
                if not is_away:  # said once: it may last for hours
                    log.warning("burst cannot be asked for", burst=flight.burst.id, reason=str(failure))
                is_away = True
            flight.stopping.wait(self._poll_s)
        raise Stopped

    def _ended(self, flight: Flight, call_id: str) -> Landed | None:
        """A reply that is there is taken, however late: it is paid for."""
        if (reply := self._modal.poll(call_id)) is not None:
            return Landed(reply=reply, keys=self._keys(flight, reply))
        if (recall := self._recalled(flight)) is not None:
            self._end(call_id)
            return Landed(recall=recall)
        return None

    def _recalled(self, flight: Flight) -> Recall | None:
        """Why the call is to be ended, if it is."""
        if flight.recall is not None or self._overtime_s(flight) > 0:
            return flight.recall or Recall.OVERDUE
        return Recall.LOCAL_IS_IDLE if flight.back_if_waiting and self._surely_waits(flight) else None

    def _surely_waits(self, flight: Flight) -> bool:
        waiting, enough = self._modal.waiting_calls(), flight.back_if_waiting
        flight.has_started, flight.back_if_waiting = not waiting, 0
        return waiting >= enough

    def _end(self, call_id: str) -> None:
        try:
            self._modal.cancel(call_id)
        except CallFailed as failure:  # it ends by its own timeout, and what it gives back is fenced
            log.warning("call not cancelled", call=call_id, reason=str(failure))

    def _overtime_s(self, flight: Flight) -> float:
        return monotonic() - (flight.called or flight.began) - self._startup_s - flight.burst.deadline_s

    def _keys(self, flight: Flight, reply: Reply) -> dict[str, str]:
        """Waits for a file store that is full or away: the results are here, and another run costs money."""
        keys: dict[str, str] = {}
        for receipt in reply.receipts:
            if receipt.outcome == Outcome.SUCCEEDED or receipt.sha256:
                try:
                    if key := self._key(flight, receipt):
                        keys[receipt.job_id] = key
                except (OurError, FileExistsError) as error:
                    log.error("result not taken", job_id=receipt.job_id, reason=str(error))
        return keys

    def _key(self, flight: Flight, receipt: Receipt) -> str | None:
        """None when nobody wants it any more."""
        is_told = False
        while True:
            try:
                return self._cargo.landed(receipt)
            except FileExistsError:
                raise
            except (DiskFull, StorageUnavailable, OSError) as error:
                if receipt.job_id not in flight.jobs:
                    return None
                if not is_told:  # said once: it may last for hours
                    log.error("file store away: results of a burst wait", burst=flight.burst.id, reason=str(error))
                is_told = True
                if flight.stopping.wait(self._poll_s):
                    raise Stopped from None


def started_in_background(fly: Callable[[Flight], None], flight: Flight) -> Flight:
    flight.thread = threading.Thread(target=fly, args=(flight,), name=f"burst-{flight.burst.id}", daemon=True)
    flight.thread.start()
    return flight


def receipts_of(reply: Reply, jobs: Mapping[str, Job]) -> list[tuple[Job, Receipt]]:
    """Those of the attempts that are still ours."""
    return [
        (jobs[receipt.job_id], receipt)
        for receipt in reply.receipts
        if receipt.job_id in jobs and jobs[receipt.job_id].attempt == receipt.attempt
    ]
