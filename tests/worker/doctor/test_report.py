from io import StringIO

import pytest
from rich.console import Console

from worker.doctor.findings import Finding, Verdict
from worker.doctor.report import conclusion, show

PATH = "/opt/venv/lib/python3.11/site-packages/nvidia/cudnn/lib/libcudnn_ops_infer.so.8"
REMEDY = f"`export LD_LIBRARY_PATH={PATH.rpartition('/')[0]}:{PATH.rpartition('/')[0]}` before the process [starts]"
FINE = Finding("Python", Verdict.OK, "3.11.7")
FAULT = Finding("libcudnn_ops_infer.so.8", Verdict.WRONG, f"two of them are there: {PATH} and another one elsewhere", REMEDY)
WARNING = Finding("Redis eviction", Verdict.WARNING, "allkeys-lru", "set it")


def shown(*findings: Finding, is_terminal: bool) -> list[str]:
    out = StringIO()
    show(Console(file=out, width=80, force_terminal=is_terminal, color_system=None), findings)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_in_a_pipe_a_finding_is_a_line_and_its_remedy_the_next() -> None:
    assert shown(FINE, FAULT, is_terminal=False) == [
        "Python                  ok          3.11.7",
        f"libcudnn_ops_infer.so.8 wrong       two of them are there: {PATH} and another one elsewhere",
        f"    → {REMEDY}",
        "doctor: 1 fault",
    ]


def test_a_terminal_of_80_columns_breaks_between_words_and_never_in_a_path_or_a_remedy() -> None:
    lines = shown(FAULT, is_terminal=True)
    assert f"{'':36}{PATH}" in lines
    assert f"    → {REMEDY}" in lines
    assert all(len(line) <= 80 for line in lines if "/" not in line)


@pytest.mark.parametrize(
    ("findings", "last"),
    [
        ([FINE], "doctor: fit"),
        ([FINE, WARNING], "doctor: fit, 1 warning"),
        ([FAULT, WARNING, FAULT], "doctor: 2 faults, 1 warning"),
        ([FAULT], "doctor: 1 fault"),
    ],
)
def test_the_last_line_counts(findings: list[Finding], last: str) -> None:
    assert conclusion(findings) == last
