"""What a call that has ended cost, and what it says of Modal and of its jobs."""

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from core.burst import Outcome, Receipt, Reply
from core.bursts import Caps
from core.errors import Overdue
from dispatcher.burst.calls import LOGS, CallFailed, Why
from dispatcher.burst.flight import Flight, Landed, Recall, receipts_of

DONE = (Outcome.SUCCEEDED, Outcome.FAILED)  # as a container that works ends a job


@dataclass(frozen=True)
class Money:
    caps: Caps
    dollars_per_s: Callable[[str], float]  # of a container, by the device that it names
    scaledown_s: float
    longest_call_s: float  # start-up and run, as Modal itself bounds them

    def cost_usd(self, flight: Flight, landed: Landed, *, is_last: bool) -> float | None:
        """What the container's time cost; None, what was reserved, when nobody can say. The time that a container waits for its next
        call is the last one's: `is_last` when no other is there to be taken up."""
        idle_s = self.scaledown_s if is_last else 0.0
        if landed.reply is not None and (container := landed.reply.container) is not None:
            cold_s = container.cold_start_s if container.bundles_before == 0 else 0.0
            return self.dollars_per_s(container.device) * (cold_s + landed.reply.seconds + idle_s)
        if flight.call_id is None or flight.called is None:
            is_unknown = flight.is_offered and landed.failure is not None and landed.failure.why == Why.BROKE
            return None if is_unknown else 0.0
        held_usd = self.dollars_per_s("") * (min(monotonic() - flight.called, self.longest_call_s) + idle_s)
        return held_usd if landed.recall is not None else max(flight.burst.reserved_usd, held_usd)


def failure_of(flight: Flight, landed: Landed) -> CallFailed | None:
    """What is wrong there, as far as this call tells."""
    if landed.failure is not None:
        return landed.failure
    if landed.recall == Recall.OVERDUE:
        return CallFailed(Why.BROKE, f"a call on Modal did not end in its time: {LOGS}")
    if landed.reply is None:
        return None
    if landed.reply.refusal is not None:
        return CallFailed(Why.REFUSED, landed.reply.refusal.message)
    return _fruitless(flight, landed.reply)


def may_be_why(flight: Flight, landed: Landed) -> bool:
    """Whether the jobs that no receipt speaks of may be why: then they are not sent again."""
    if landed.failure is not None:
        return landed.failure.why == Why.BROKE and flight.call_id is not None
    return landed.recall == Recall.OVERDUE or (landed.reply is not None and landed.reply.refusal is None)


def is_blamed(receipt: Receipt) -> bool:
    """Whether a job that came back unended may be why."""
    if receipt.outcome == Outcome.RETURNED:
        return receipt.error is not None and receipt.error.code == Overdue.code
    return receipt.outcome != Outcome.LOST


def _fruitless(flight: Flight, reply: Reply) -> CallFailed | None:
    receipts = [receipt for _, receipt in receipts_of(reply, flight.jobs)]
    if not flight.jobs or any(receipt.outcome in DONE for receipt in receipts):
        return None
    said = next((receipt.error.message for receipt in receipts if receipt.error), "it says nothing of them")
    return CallFailed(Why.BROKE, f"a container on Modal ended none of its jobs: {said}")
