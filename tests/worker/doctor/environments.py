"""Throw-away environments: the checkout's own packages as links, save what a test takes away or puts in another version."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from tests.conftest import ROOT
from worker.doctor.findings import Finding, Verdict

SITE = Path(sysconfig.get_path("purelib"))


@dataclass(frozen=True)
class Doctored:
    """What a run of the command gave."""

    status: int
    findings: tuple[Finding, ...]

    def of(self, check: str) -> Finding:
        return next(finding for finding in self.findings if finding.check == check)

    def wrong(self) -> set[str]:
        return {finding.check for finding in self.findings if finding.verdict is Verdict.WRONG}


def doctor(*arguments: str, python: Path | str = sys.executable, library_path: str = "", **settings: str) -> Doctored:
    """`python -m worker.doctor --json` with these settings, each in lower case and without its prefix."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SPILLWAY_")}
    environment |= {f"SPILLWAY_{name.upper()}": value for name, value in settings.items()} | {"LD_LIBRARY_PATH": library_path}
    command = [str(python), "-m", "worker.doctor", "--json", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    said = json.loads(done.stdout)
    assert said["fit"] == (done.returncode == 0)
    findings = (Finding(told["check"], Verdict(told["verdict"]), told["found"], told["remedy"]) for told in said["findings"])
    return Doctored(done.returncode, tuple(findings))


def environment(folder: Path, *, without: Collection[str] = (), installed: Mapping[str, str] | None = None) -> tuple[Path, Path]:
    """Its interpreter and its site-packages. `without` are patterns of names there; `installed` are versions by distribution, each
    with the metadata that an installer leaves."""
    venv.create(folder, symlinks=True, with_pip=False)
    site = folder / "lib" / "python3.11" / "site-packages"
    for entry in SITE.iterdir():
        if not any(fnmatch(entry.name, pattern) for pattern in without):
            (site / entry.name).symlink_to(entry)
    for name, version in (installed or {}).items():
        metadata = site / f"{name}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (metadata / "INSTALLER").write_text("pip\n")
    return folder / "bin" / "python", site


def linked_deeply(source: Path, target: Path) -> None:
    """Real folders with links to each file, so that what a library looks for beside itself is looked for in the copy."""
    for folder, _, files in os.walk(source):
        here = target / Path(folder).relative_to(source)
        here.mkdir(parents=True)
        for name in files:
            (here / name).symlink_to(Path(folder) / name)
