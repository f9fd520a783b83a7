"""Server-sent events, the few lines of the standard that are needed here."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    name: str
    data: str


def events(lines: Iterable[str]) -> Iterator[Event]:
    """One for each block that a blank line closed; comments and blocks without data give none."""
    name, data = "message", list[str]()
    for line in lines:
        field, _, value = line.partition(":")
        if not line:
            if data:
                yield Event(name, "\n".join(data))
            name, data = "message", []
        elif field == "event":
            name = value.removeprefix(" ")
        elif field == "data":
            data.append(value.removeprefix(" "))
