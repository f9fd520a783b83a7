"""The hashed locks read: which versions they pin, and by which hashes."""

import re
from dataclasses import dataclass
from pathlib import Path

LOCKS = Path(__file__).parent.parent / "requirements"

_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)")
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")


@dataclass(frozen=True)
class Pin:
    version: str
    hashes: frozenset[str]


def read_pins(text: str) -> dict[str, Pin]:
    """Pin by canonical package name; comments and options are passed over."""
    blocks = (block for block in re.split(r"\n(?=\S)", text) if _PIN.match(block))
    found = ((_PIN.match(block), _HASH.findall(block)) for block in blocks)
    return {canonical(pin[1]): Pin(pin[2], frozenset(hashes)) for pin, hashes in found if pin}


def canonical(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()
