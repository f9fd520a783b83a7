import json
import subprocess
from collections.abc import Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tools.audit import AUDITED, LEDGER, Acceptance, AuditFailed, Finding, audit, judge, read_ledger, read_report
from tools.locks import LOCKS, read_pins

TODAY = date(2026, 11, 22)
FINDING = Finding("torch", "2.0.0", "PYSEC-1", frozenset({"PYSEC-1", "CVE-1"}), ("2.6.0",))
ACCEPTED = Acceptance("torch", ("PYSEC-1",), "no such file is read", ("https://osv.dev/vulnerability/PYSEC-1",), date(2027, 1, 1))


class Advisories(BaseHTTPRequestHandler):
    """As api.osv.dev answers: one advisory for idna, none for anything else."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        advisory = {"id": "PYSEC-1", "aliases": ["CVE-1"], "summary": "s", "published": "2026-01-01T00:00:00Z", "affected": []}
        body = json.dumps({"vulns": [advisory]} if asked["package"]["name"] == "idna" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def osv() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Advisories) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def uv() -> str:
    return subprocess.run(["sh", str(LOCKS.parent / "tools" / "uv.sh")], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    ("findings", "ledger", "said"),
    [
        ([FINDING], [ACCEPTED], []),
        ([], [], []),
        ([FINDING], [], ["torch 2.0.0 PYSEC-1: fixed in 2.6.0: move the pin, or say in audit.toml why it does not reach us"]),
        ([], [ACCEPTED], ["torch PYSEC-1: nothing finds it any more; take it out of audit.toml"]),
    ],
)
def test_findings_and_ledger_may_not_differ(findings: list[Finding], ledger: list[Acceptance], said: list[str]) -> None:
    assert judge(findings, ledger, TODAY) == said


def test_an_advisory_is_accepted_by_any_of_its_names() -> None:
    under_its_alias = Finding("torch", "2.0.0", "CVE-1", frozenset({"CVE-1", "PYSEC-1"}), ())
    assert judge([under_its_alias], [ACCEPTED], TODAY) == []


def test_an_acceptance_is_of_one_package_only() -> None:
    elsewhere = Finding("idna", "3.20", "PYSEC-1", frozenset({"PYSEC-1"}), ())
    assert [line.partition(":")[0] for line in judge([elsewhere], [ACCEPTED], TODAY)] == ["idna 3.20 PYSEC-1", "torch PYSEC-1"]


def test_an_acceptance_has_to_be_looked_at_again_in_time() -> None:
    assert judge([FINDING], [ACCEPTED], date(2027, 1, 1)) == []
    assert judge([FINDING], [ACCEPTED], date(2027, 1, 2)) == [
        "torch PYSEC-1: accepted until 2027-01-01; look at it again and move the date, or fix it"
    ]


def test_a_package_that_was_not_audited_is_not_passed_over() -> None:
    report = '{"dependencies": [{"name": "torch", "skip_reason": "torch (2.0.0) not found"}], "fixes": []}'
    assert read_report(report) == ([], ["torch (2.0.0) not found"])


def test_pip_audit_itself_reports_what_the_advisory_service_says(osv: str, uv: str, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(f"idna==3.20 --hash=sha256:{'0' * 64}\npackaging==26.3\n")
    findings, unaudited = read_report(audit(uv, [lock], ["-s", "osv", "--osv-url", osv, "--cache-dir", str(tmp_path)]))
    assert findings == [Finding("idna", "3.20", "PYSEC-1", frozenset({"PYSEC-1", "CVE-1"}), ())]
    assert unaudited == []


def test_a_service_out_of_reach_is_no_clean_audit(uv: str, tmp_path: Path) -> None:
    (tmp_path / "lock.txt").write_text("idna==3.20\n")
    with pytest.raises(AuditFailed, match="is its advisory service within reach"):
        audit(uv, [tmp_path / "lock.txt"], ["-s", "osv", "--osv-url", "http://127.0.0.1:9", "--cache-dir", str(tmp_path)])


def test_the_ledger_accepts_only_what_is_locked_each_once_with_reason_source_and_date() -> None:
    ledger = read_ledger(LEDGER.read_text())
    locked = {package for name in AUDITED for package in read_pins((LOCKS / name).read_text())}
    names = [(row.package, name) for row in ledger for name in row.ids]
    assert {package for package, _ in names} <= locked
    assert len(names) == len(set(names))
    assert all(row.reason and row.until > date(2026, 1, 1) and all(url.startswith("https://") for url in row.sources) for row in ledger)
    assert all(row.sources for row in ledger)
