"""Known advisories against everything that is locked: `python -m tools.audit` (`make audit`).

pip-audit finds; requirements/audit.toml says of each finding why it does not reach us. Neither may know more than the other.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from tools.locks import LOCKS, read_pins
from tools.wheels import throw_away_pip

LEDGER = LOCKS / "audit.toml"
AUDITED = ("dev.txt", "torch.txt", "torch-pypi.txt", "uv.txt", "tools.txt")  # dev.txt holds the worker's and the service's


@dataclass(frozen=True)
class Finding:
    """`names`: the advisory's own id and its aliases."""

    package: str
    version: str
    id: str
    names: frozenset[str]
    fixed_in: tuple[str, ...]


@dataclass(frozen=True)
class Acceptance:
    """One reason for one package; `until` is the day on which it has to be looked at again."""

    package: str
    ids: tuple[str, ...]
    reason: str
    sources: tuple[str, ...]
    until: date


class AuditFailed(Exception):
    """pip-audit gave no report; the message ends in its own last words."""


def read_ledger(text: str) -> list[Acceptance]:
    return [Acceptance(**{**row, "ids": tuple(row["ids"]), "sources": tuple(row["sources"])}) for row in tomllib.loads(text)["accepted"]]


def read_report(text: str) -> tuple[list[Finding], list[str]]:
    """The findings of a pip-audit report, and why some packages could not be audited."""
    packages = json.loads(text)["dependencies"]
    findings = [
        Finding(package["name"], package["version"], found["id"], frozenset([found["id"], *found["aliases"]]), tuple(found["fix_versions"]))
        for package in packages
        for found in package.get("vulns", ())
    ]
    return findings, [package["skip_reason"] for package in packages if "skip_reason" in package]


def judge(findings: Sequence[Finding], ledger: Sequence[Acceptance], today: date) -> list[str]:
    """What stands between the findings and the ledger, a line each."""
    accepted = {(row.package, name) for row in ledger for name in row.ids}
    found = {(finding.package, name) for finding in findings for name in finding.names}
    return [
        *(_told(finding) for finding in findings if not accepted & {(finding.package, name) for name in finding.names}),
        *(f"{package} {name}: nothing finds it any more; take it out of {LEDGER.name}" for package, name in sorted(accepted - found)),
        *(
            f"{row.package} {', '.join(row.ids)}: accepted until {row.until}; look at it again and move the date, or fix it"
            for row in ledger
            if row.until < today
        ),
    ]


def _told(finding: Finding) -> str:
    remedy = f"fixed in {', '.join(finding.fixed_in)}: move the pin" if finding.fixed_in else "there is no fix yet"
    return f"{finding.package} {finding.version} {finding.id}: {remedy}, or say in {LEDGER.name} why it does not reach us"


def audit(uv: str, locks: Iterable[Path], options: Sequence[str]) -> str:
    """pip-audit's report as JSON. Raises `AuditFailed`."""
    pins = {package: pin.version for lock in locks for package, pin in read_pins(lock.read_text()).items()}
    with tempfile.TemporaryDirectory() as folder:
        everything = Path(folder) / "requirements.txt"
        everything.write_text("".join(f"{package}=={version}\n" for package, version in sorted(pins.items())))
        python = throw_away_pip(uv, Path(folder) / "venv")
        command = [str(python), "-m", "pip_audit", "--disable-pip", "--no-deps", "--progress-spinner", "off", "--format", "json"]
        done = subprocess.run([*command, *options, "--requirement", str(everything)], capture_output=True, text=True, check=False)
    if not done.stdout.startswith("{"):
        raise AuditFailed(f"pip-audit gave no report; is its advisory service within reach? {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.audit", description="Known advisories against everything that is locked.")
    parser.add_argument("--service", default="osv", choices=["osv", "pypi"], help="who is asked; default osv, api.osv.dev")
    given = parser.parse_args()
    try:
        report = audit(os.environ.get("UV", "uv"), (LOCKS / name for name in AUDITED), ["--vulnerability-service", given.service])
    except AuditFailed as error:
        print(f"audit: {error}", file=sys.stderr)
        return 2
    findings, unaudited = read_report(report)
    problems = [*judge(findings, read_ledger(LEDGER.read_text()), date.today()), *unaudited]
    print(*(f"audit: {problem}" for problem in problems), f"audit: {len(findings)} findings, {len(problems)} to do", sep="\n")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
