"""What the crowd asks for: jobs of mixed length, some poison, some cancelled, some asked for twice. The same for the same seed."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

POISON: Mapping[str, str] = {  # what a script does at every attempt → the error that the job must end with
    "segfault": "worker_lost",
    "exit": "worker_lost",
    "hang": "worker_lost",
    "out_of_memory": "out_of_memory",
    "break": "engine_failed",
}
SHORTEST_S, LONGEST_S = 0.02, 2.0  # of each of a job's two stages


@dataclass(frozen=True)
class Order:
    """One job to be had. Its number is its Idempotency-Key: whoever asks again must get the same job."""

    number: int
    script: Mapping[str, Any] | None  # None: transcribed by the real model
    error: str | None = None  # what it must fail with
    cancel_after_s: float | None = None
    is_asked_twice: bool = False
    wants_callback: bool = False

    @property
    def key(self) -> str:
        return f"order-{self.number}"


def draw_orders(random: Random, count: int, *, real: int, poison: int) -> list[Order]:
    """In the order of their sending; every kind of poison is among `poison` of them in turn."""
    kinds = [*(["real"] * real), *(["poison"] * poison), *(["healthy"] * (count - real - poison))]
    random.shuffle(kinds)
    drawn: list[Order] = []
    poisons = list(POISON)
    for number, kind in enumerate(kinds):
        if kind == "poison":
            drawn.append(_poison(number, poisons[sum(order.error is not None for order in drawn) % len(poisons)]))
        else:
            drawn.append(_healthy(random, number, is_real=kind == "real"))
    return drawn


def _poison(number: int, then: str) -> Order:
    return Order(number, {"seconds": 0.1, "then": then}, error=POISON[then], wants_callback=True)


def _healthy(random: Random, number: int, *, is_real: bool) -> Order:
    seconds = round(SHORTEST_S * (LONGEST_S / SHORTEST_S) ** random.random(), 3)  # as many short ones as long ones
    breaks_once = {"then": random.choice(["exit", "break"]), "stage": "alignment", "times": 1} if random.random() < 0.03 else {}
    return Order(
        number,
        None if is_real else {"seconds": seconds, **breaks_once},
        cancel_after_s=random.uniform(0, 3) if random.random() < 0.06 else None,
        is_asked_twice=random.random() < 0.15,
        wants_callback=random.random() < 0.15,
    )
