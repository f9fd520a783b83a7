"""Logs as a process configures them."""

import json
import subprocess
import sys

from tests.conftest import ROOT

TWICE = """
from core import log
used = log.logger("stack")
for process in ("one", "two"):
    log.configure(process, level="info", form="json")
    used.info("said")
"""


def test_a_logger_that_was_used_goes_by_the_newest_configuration() -> None:
    said = subprocess.run([sys.executable, "-c", TWICE], cwd=ROOT, capture_output=True, text=True, check=True).stderr
    assert [json.loads(line)["process"] for line in said.splitlines()] == ["one", "two"]
