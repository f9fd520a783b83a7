"""What is under way, each in a thread of its own, for as long as its lease holds: fetches and deliveries alike."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Generic, Protocol, TypeVar

STOP_S = 5.0  # the threads look up every 0.5 s


class Stopped(Exception):
    """Nobody waits for this flight any more."""


class Leased(Protocol):
    @property
    def id(self) -> str: ...


Load = TypeVar("Load", bound=Leased)  # what is held by the lease
Outcome = TypeVar("Outcome")


@dataclass
class Flight(Generic[Load, Outcome]):
    """One try under way. The thread writes `outcome` and then sets `is_over`, the loop reads them."""

    load: Load
    stopping: threading.Event = field(default_factory=threading.Event)
    is_over: threading.Event = field(default_factory=threading.Event)
    outcome: Outcome | None = None
    began: float = field(default_factory=monotonic)

    @property
    def seconds(self) -> float:
        return round(monotonic() - self.began, 2)

    def check(self) -> None:
        """Raises `Stopped`."""
        if self.stopping.is_set():
            raise Stopped


class Flights(Generic[Load, Outcome]):
    """Every method is the loop's: the threads hear of it, and are heard of, through their own flight alone."""

    def __init__(self, fly: Callable[[Flight[Load, Outcome]], Outcome], *, heartbeat_s: float) -> None:
        """`fly` runs in the thread, and catches everything."""
        self._fly, self._heartbeat_s = fly, heartbeat_s
        self._flights: dict[str, tuple[Flight[Load, Outcome], threading.Thread]] = {}
        self._renewed = 0.0

    def __len__(self) -> int:
        return len(self._flights)

    def __iter__(self) -> Iterator[Flight[Load, Outcome]]:
        return iter([flight for flight, _ in self._flights.values()])

    def start(self, load: Load) -> None:
        """Whatever still flies under the same id is stopped: our own lease of it ran out while Redis was away."""
        if load.id in self._flights:
            self._flights[load.id][0].stopping.set()
        flight = Flight[Load, Outcome](load)
        thread = threading.Thread(target=self._run, args=(flight,), name=f"flight-{load.id}", daemon=True)
        self._flights[load.id] = flight, thread
        thread.start()

    def settle(self, commit: Callable[[Flight[Load, Outcome]], None]) -> None:
        """For each that is over; one whose commit raises is settled the next time."""
        for flight in self:
            if flight.is_over.is_set():
                commit(flight)
                del self._flights[flight.load.id]

    def beat(self, beat: Callable[[Sequence[Load], bool], tuple[bool, ...]]) -> None:
        """`beat` renews the leases when it is told to, and says which are still held: the others are stopped."""
        is_due = monotonic() - self._renewed >= self._heartbeat_s
        flights = list(self)
        held = beat([flight.load for flight in flights], is_due)
        if is_due:
            self._renewed = monotonic()
        for flight, is_held in zip(flights, held, strict=True):
            if not is_held:
                flight.stopping.set()

    def stop(self) -> None:
        """Waits for them, though not for long."""
        for flight in self:
            flight.stopping.set()
        deadline = monotonic() + STOP_S
        for _, thread in self._flights.values():
            thread.join(max(0.0, deadline - monotonic()))

    def _run(self, flight: Flight[Load, Outcome]) -> None:
        flight.outcome = self._fly(flight)
        flight.is_over.set()
