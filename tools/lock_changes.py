"""What moved between two folders of locks: `python -m tools.lock_changes BEFORE AFTER`."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tools.locks import Pin, read_pins

Locks = Mapping[str, Mapping[str, Pin]]  # pin by package, by lock


@dataclass(frozen=True)
class Move:
    """`None` where the package was not there before, or is not there after."""

    package: str
    before: str | None
    after: str | None


def read_folder(folder: Path) -> dict[str, dict[str, Pin]]:
    return {lock.name: read_pins(lock.read_text()) for lock in sorted(folder.glob("*.txt"))}


def moves(before: Locks, after: Locks) -> dict[Move, list[str]]:
    """The locks of each move, by package."""
    found: dict[Move, list[str]] = defaultdict(list)
    for lock in sorted(before.keys() | after.keys()):
        old, new = before.get(lock, {}), after.get(lock, {})
        for package in old.keys() | new.keys():
            if _version(old, package) != _version(new, package):
                found[Move(package, _version(old, package), _version(new, package))].append(lock)
    return dict(sorted(found.items(), key=lambda item: (item[0].package, item[1])))


def rehashed(before: Locks, after: Locks) -> dict[str, list[str]]:
    """Packages by lock whose version stayed and whose hashes did not: files came to, or left, the index."""
    found = {lock: _rehashed(before.get(lock, {}), pins) for lock, pins in after.items()}
    return {lock: packages for lock, packages in found.items() if packages}


def _rehashed(old: Mapping[str, Pin], new: Mapping[str, Pin]) -> list[str]:
    stayed = (package for package in new if _version(old, package) == new[package].version)
    return sorted(package for package in stayed if old[package].hashes != new[package].hashes)


def _version(pins: Mapping[str, Pin], package: str) -> str | None:
    return pins[package].version if package in pins else None


def show(before: Locks, after: Locks, console: Console) -> None:
    moved, hashes_only = moves(before, after), rehashed(before, after)
    if moved:
        console.print(_table(moved))
    for lock, packages in hashes_only.items():
        console.print(f"{lock}: the hashes alone changed of {', '.join(packages)}", highlight=False, soft_wrap=True)
    if not moved and not hashes_only:
        console.print(
            "nothing moved: a version pinned in requirements/*.in moves only when its pin is changed there", highlight=False, soft_wrap=True
        )


def _table(moved: Mapping[Move, Iterable[str]]) -> Table:
    table = Table("package", "from", "to", "locks")
    for move, locks in moved.items():
        table.add_row(move.package, move.before or "-", move.after or "gone", ", ".join(locks))
    return table


if __name__ == "__main__":
    show(read_folder(Path(sys.argv[1])), read_folder(Path(sys.argv[2])), Console())
