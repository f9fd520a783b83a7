"""The findings for people, and for machines."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from textwrap import wrap

from rich.console import Console
from rich.text import Text

from worker.doctor.findings import Finding, Verdict, faults

STYLES = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.WRONG: "bold red", Verdict.NOT_CHECKED: "dim"}
CHECK_COLUMNS = 24  # libcudnn_ops_infer.so.8 and a space
VERDICT_COLUMNS = 12  # "not checked" and a space
INDENT = " " * (CHECK_COLUMNS + VERDICT_COLUMNS)


def show(console: Console, findings: Sequence[Finding]) -> None:
    """A table whose last column breaks between words on a terminal, never within a path, and not at all in a pipe."""
    for finding in findings:
        for line in _lines(finding, console.width if console.is_terminal else None):
            console.print(line, soft_wrap=True)
    console.print(conclusion(findings), style="bold", markup=False, highlight=False)


def as_json(findings: Sequence[Finding]) -> str:
    return json.dumps({"fit": not faults(findings), "findings": [asdict(finding) for finding in findings]}, indent=2)


def conclusion(findings: Sequence[Finding]) -> str:
    wrong, warnings = (sum(finding.verdict is verdict for finding in findings) for verdict in (Verdict.WRONG, Verdict.WARNING))
    counts = [_counted(number, thing) for number, thing in ((wrong, "fault"), (warnings, "warning")) if number]
    return f"doctor: {', '.join(counts if wrong else ['fit', *counts])}"


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _lines(finding: Finding, width: int | None) -> Iterator[Text]:
    found = [finding.found] if width is None else _wrapped(finding.found, width)
    style = STYLES[finding.verdict]
    yield Text.assemble(f"{finding.check:{CHECK_COLUMNS}}", (f"{finding.verdict:{VERDICT_COLUMNS}}", style), found[0])
    yield from (Text(INDENT + line) for line in found[1:])
    if finding.remedy:
        yield Text(f"    → {finding.remedy}", style=style)


def _wrapped(found: str, width: int) -> list[str]:
    return wrap(found, max(20, width - len(INDENT)), break_long_words=False, break_on_hyphens=False) or [""]
