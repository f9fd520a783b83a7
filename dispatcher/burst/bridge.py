"""Between the queue and Modal: takes jobs as the policy says, keeps their leases, commits what comes home, settles what it cost."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from time import monotonic
from uuid import uuid4

from core.burst import Outcome, Receipt
from core.bursts import Burst, Bursts, OverCap
from core.errors import JobNotFound, RecordBroken
from core.job import Job, JobState
from core.job_store import Beat, JobStore, Kept, Runner, Verdict
from core.log import logger
from dispatcher.burst.breaker import Breaker
from dispatcher.burst.calls import CallFailed, Why
from dispatcher.burst.cargo import Cargo
from dispatcher.burst.errands import Errands
from dispatcher.burst.flight import Flight, Landed, Pilot, Recall, receipts_of, started_in_background
from dispatcher.burst.gauges import Gauges
from dispatcher.burst.settling import Money, failure_of, is_blamed, may_be_why

log = logger("dispatcher.burst")
SLOT = "modal"
ME = Runner(SLOT, "bridge")  # of whichever dispatcher leads: the attempt is the fence
STOP_S = 3.0  # a question to Modal may take longer, and is left behind


@dataclass(frozen=True)
class Limits:
    lease_s: float
    heartbeat_s: float
    max_failures: int


class Bridge:
    """`step` asks Redis, gives orders to threads, and waits for neither network nor disk."""

    def __init__(self, jobs: JobStore, bursts: Bursts, pilot: Pilot, cargo: Cargo, *, gauges: Gauges, limits: Limits, money: Money) -> None:
        self._jobs, self._bursts, self._pilot, self._cargo, self._gauges = jobs, bursts, pilot, cargo, gauges
        self._limits, self._money = limits, money
        self.breaker = Breaker()
        self.flights: dict[str, Flight] = {}
        self._errands = Errands()
        self._renewed = -math.inf
        self._never_called: set[str] = set()  # intents that Redis may hold, and that no call followed: it went away in between

    def step(self) -> int:
        """How many containers have become free. Raises `StoreUnavailable`; what had ended by then is committed by a later step."""
        self._adopt()
        replied = self._settle()
        self._beat()
        return replied

    def close(self) -> None:
        """The calls go on: whoever leads next finds them."""
        for flight in self.flights.values():
            flight.stopping.set()
        deadline = monotonic() + STOP_S
        for flight in self.flights.values():
            if flight.thread:
                flight.thread.join(max(0.0, deadline - monotonic()))
        self._errands.close()
        self._pilot.close()

    def begin(self, job_ids: tuple[str, ...], *, reserve_usd: float, deadline_s: float) -> Flight | OverCap | None:
        """A call with those of the jobs that are still pending; None when none of them is."""
        self._never_called.add(burst_id := uuid4().hex)
        burst = self._bursts.intend(
            burst_id, job_ids, ME,
            lease_s=self._limits.lease_s, deadline_s=deadline_s, reserve_usd=reserve_usd, caps=self._money.caps,
        )  # fmt: skip
        held = self._held(burst) if isinstance(burst, Burst) else {}
        self._never_called.remove(burst_id)
        if not isinstance(burst, Burst):
            return burst
        log.info("burst intended", burst=burst.id, jobs=len(burst.jobs), reserved_usd=round(reserve_usd, 4))
        flight = Flight(burst, held)
        self.flights[burst.id] = started_in_background(self._pilot.fly, flight)
        return flight

    def want(self, containers: int) -> None:
        """So many at once, for the calls that follow."""
        self._pilot.containers = containers

    def take_back(self, burst_id: str) -> None:
        """If no container has begun it."""
        if (flight := self.flights.get(burst_id)) and not flight.has_started:
            flight.back_if_waiting = sum(not each.has_started for each in self.flights.values())

    def look(self) -> None:
        """At what is under way, for somebody who only wants to know."""
        self.flights = {burst.id: self._flight_of(burst) for burst in self._bursts.under_way()}

    # Calls that an earlier dispatcher made

    def _adopt(self) -> None:
        for burst in self._bursts.under_way():
            if burst.id not in self.flights:
                self._take_over(burst)

    def _take_over(self, burst: Burst) -> None:
        jobs = self._held(burst)
        if burst.call_id is None:  # nobody can say whether it was made, nor ask it for anything
            log.warning("burst without a call given up", burst=burst.id, jobs=len(jobs))
            for job in jobs.values():
                self._revoke(job)
                self._jobs.release(job)
            self._bursts.settle(burst.id, cost_usd=0.0 if burst.id in self._never_called else None)
            self._never_called.discard(burst.id)
            return
        log.info("burst taken over", burst=burst.id, call=burst.call_id, jobs=len(jobs))
        self.flights[burst.id] = flight = self._flight_of(burst)
        flight.recall = None if flight.jobs else Recall.NOBODY_WANTS_IT
        started_in_background(self._pilot.fly, flight)
        self._renewed = -math.inf  # before anybody judges their leases

    def _flight_of(self, burst: Burst) -> Flight:
        flight = Flight(burst, self._held(burst), is_offered=burst.call_id is not None, call_id=burst.call_id)
        if burst.called_at is not None:
            flight.called_at = burst.called_at
            flight.called = monotonic() - max(0.0, self._jobs.clock_s() - burst.called_at)  # a clock may have been set back
        return flight

    def _held(self, burst: Burst) -> dict[str, Job]:
        held = {}
        for job_id, attempt in burst.jobs:
            try:
                job = self._jobs.get(job_id)
            except (JobNotFound, RecordBroken):  # a broken one is set aside when its lease runs out
                continue
            if (job.state, job.attempt) == (JobState.RUNNING, attempt):
                held[job_id] = job
        return held

    # Those under way

    def _beat(self) -> None:
        renew = monotonic() - self._renewed >= self._limits.heartbeat_s
        held = [(flight, job) for flight in self.flights.values() for job in flight.jobs.values()]
        beats = [Beat(job.id, job.attempt, None, 0.0) for _, job in held]
        for (flight, job), verdict in zip(held, self._jobs.beat(beats, lease_s=self._limits.lease_s, renew=renew), strict=True):
            if verdict == Verdict.CANCEL:
                self._jobs.end_cancelled(job)
                self._revoke(job)
            if verdict != Verdict.HELD:
                del flight.jobs[job.id]
                flight.recall = flight.recall if flight.jobs else Recall.NOBODY_WANTS_IT
        self._renewed = monotonic() if renew else self._renewed

    def _revoke(self, job: Job) -> None:
        self._errands.send(partial(self._cargo.revoke, job.id, job.attempt), "attempt not revoked: its result is dropped when it comes")

    # Those that have ended

    def _settle(self) -> int:
        replied = 0
        for flight in list(self.flights.values()):
            landed = flight.landed  # read first: what cannot be sent was told before
            self._hand_back_unfit(flight)
            if landed is not None:
                self._commit(flight, landed)
                self._drop(flight, landed.keys)
                cost_usd = self._money.cost_usd(flight, landed, is_last=len(self.flights) == 1)
                self._bursts.settle(flight.burst.id, cost_usd=cost_usd)
                self._learn(flight, landed)
                del self.flights[flight.burst.id]
                self._tell(flight, landed, cost_usd)
                replied += landed.reply is not None and landed.reply.container is not None
        return replied

    def _hand_back_unfit(self, flight: Flight) -> None:
        for job in flight.unfit:
            if flight.jobs.get(job.id) is job:
                self._jobs.release(job, is_burst_failed=True)
                del flight.jobs[job.id]

    def _commit(self, flight: Flight, landed: Landed) -> None:
        """Each step is safe to be repeated. What no receipt speaks of goes back to the queue."""
        for job, receipt in receipts_of(landed.reply, flight.jobs) if landed.reply else ():
            self._commit_one(job, receipt, landed.keys.get(job.id))
        for job in flight.jobs.values():
            if landed.reply is None and flight.is_offered:  # a container may have it all the same
                self._revoke(job)
            self._jobs.release(job, is_burst_failed=may_be_why(flight, landed))  # fenced: nothing happens to those that have ended

    def _commit_one(self, job: Job, receipt: Receipt, key: str | None) -> None:
        for stage, product in receipt.products.items():
            self._jobs.keep_product(job, stage, product, sha256=receipt.product_sha256.get(stage, ""))
        if receipt.outcome == Outcome.SUCCEEDED and key is not None:
            result = {"result_key": key, "result_sha256": receipt.sha256 or ""}
            self._jobs.succeed(job, **result, warnings=receipt.warnings, stages_s=receipt.stages_s)
        elif receipt.outcome == Outcome.FAILED and receipt.error:
            self._jobs.fail(job, receipt.error)
        elif receipt.outcome == Outcome.BROKE and receipt.error:
            words = Kept(key, receipt.sha256 or "", receipt.warnings) if key else None
            self._jobs.retry(job, receipt.error, max_failures=self._limits.max_failures, kept=words)
        else:
            self._jobs.release(job, is_burst_failed=is_blamed(receipt))

    def _drop(self, flight: Flight, keys: Mapping[str, str]) -> None:
        """Transcripts that nobody will see, and whatever a container wrote of jobs that were deleted meanwhile. Asked of the records:
        another dispatcher may have committed a result, and of a broken one nobody knows."""
        otherwise = "files of a burst not deleted: they are swept when they are old"
        for job_id, attempt in flight.burst.jobs:
            try:
                visible, key = self._jobs.get(job_id).result_key, keys.get(job_id)
            except JobNotFound:
                self._errands.send(partial(self._cargo.forget, job_id, attempt), otherwise)
            except RecordBroken:
                continue
            else:
                if key is not None and key != visible:
                    self._errands.send(partial(self._cargo.files.delete, key), otherwise)

    def _learn(self, flight: Flight, landed: Landed) -> None:
        if (failure := failure_of(flight, landed)) is not None:
            self.breaker.failed(failure)
        elif landed.reply is not None:
            self._gauges.measure(flight, landed.reply)
            if fault := self._gauges.stack_fault(landed.reply):
                self.breaker.failed(CallFailed(Why.REFUSED, fault))
            else:
                self.breaker.succeeded()

    def _tell(self, flight: Flight, landed: Landed, cost_usd: float | None) -> None:
        ended = landed.recall or failure_of(flight, landed) or "replied"
        cost = "as reserved" if cost_usd is None else round(cost_usd, 4)
        log.info("burst ended", burst=flight.burst.id, call=flight.call_id, ended=str(ended), cost_usd=cost)
