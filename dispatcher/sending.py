"""What the kinds of delivery have in common: how a try is called, and what it says."""

from collections.abc import Callable
from dataclasses import dataclass

from core.outbox import Answer, Delivery, DeliveryState


@dataclass(frozen=True)
class Tried:
    """How a try ended: pending when another may do better; `after_s` is when the receiver wants to be asked again."""

    state: DeliveryState
    answer: Answer
    after_s: float = 0.0


# Tries to deliver. It calls the last argument at least every second, and lets out what that raises.
Send = Callable[[Delivery, Callable[[], None]], Tried]


def failed(error: str, *, status: int | None = None, after_s: float = 0.0) -> Tried:
    return Tried(DeliveryState.PENDING, Answer(status=status, error=error), after_s)


def stopped(error: str, *, status: int | None = None) -> Tried:
    return Tried(DeliveryState.STOPPED, Answer(status=status, error=error))
