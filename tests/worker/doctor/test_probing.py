"""What ends a process is an answer, and takes no other answer with it."""

from pathlib import Path

import pytest

from worker.doctor.findings import Finding, Verdict
from worker.doctor.probing import findings_of

DEATHS = [
    ("import os; os.abort()", "the process was ended by SIGABRT: without a word"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "the process was ended by SIGSEGV: without a word"),
    ("import sys; sys.exit('no room')", "the process ended with status 1: no room"),
]


def plant(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "planted.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.mark.parametrize(("code", "found"), DEATHS)
def test_a_deep_run_that_dies_gives_its_last_words(code: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, code, monkeypatch)
    (line,) = findings_of("planted")
    assert (line.verdict, line.found) == (Verdict.WRONG, found)
    assert "python -m planted" in line.remedy


def test_a_deep_runs_findings_are_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = '[{"check": "device", "verdict": "warning", "found": "slow", "remedy": "wait"}]'
    plant(tmp_path, f"print('noise'); print('''{told}''')", monkeypatch)
    assert findings_of("planted") == [Finding("device", Verdict.WARNING, "slow", "wait")]
