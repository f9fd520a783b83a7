"""What a check gives: one line of the doctor's table."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"  # works, and the user should know
    WRONG = "wrong"  # a worker with it takes no jobs
    NOT_CHECKED = "not checked"  # `found` says why not


@dataclass(frozen=True)
class Finding:
    """`check` is the line's name, the same on every machine; `remedy` says exactly what to do, and is empty when all is well."""

    check: str
    verdict: Verdict
    found: str
    remedy: str = ""


def faults(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.verdict == Verdict.WRONG]
