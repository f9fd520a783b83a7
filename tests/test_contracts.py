"""The import contracts hold, and do fail when they should: a linter that accepts everything looks just like one that holds."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("core", "service", "worker", "dispatcher", "client", "tools")

# What is added, where, and the contract that it must break.
OFFENCES = [
    ("core/utils.py", "", "inside core"),
    ("service/common.py", "", "inside service"),
    ("worker/helpers.py", "", "inside worker"),
    ("worker/doctor/odds.py", "", "inside worker.doctor"),
    ("worker/engine/misc.py", "", "inside worker.engine"),
    ("dispatcher/shared.py", "", "inside dispatcher"),
    ("client/tricks.py", "", "inside client"),
    ("tools/odds.py", "", "inside tools"),
    ("core/log.py", "import flask", "core imports none of ours, and no part of a web framework, the ML stack or Modal"),
    ("service/places.py", "import numpy", "service never waits on the ML stack or on Modal"),
    ("service/places.py", "import dispatcher.sweep", "service, worker and dispatcher never import one another"),
    ("worker/leases.py", "import modal", "worker serves no HTTP and knows nothing of Modal"),
    ("worker/work.py", "import torch", "worker outside its engine is importable without the ML stack"),
    (
        "dispatcher/sweep.py",
        "import torch",
        "dispatcher carries neither the ML stack nor a web framework; Modal enters by one module alone",
    ),
    ("client/errors.py", "import core.errors", "client imports none of ours"),
    ("worker/leases.py", "import client.models", "the service, the worker and the dispatcher do not import the client"),
    ("core/log.py", "import tools.supervisor", "nobody imports tools"),
]


def lint(folder: Path) -> "subprocess.CompletedProcess[str]":
    wide = {**os.environ, "COLUMNS": "400", "PYTHONPATH": ""}  # a contract and its verdict on one line
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([program, "--no-cache"], cwd=folder, env=wide, capture_output=True, text=True, check=False)


def copy_of_the_code(folder: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".importlinter", folder)
    return folder


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The linter's words on a copy of the code that has every offence."""
    folder = copy_of_the_code(tmp_path_factory.mktemp("offences"))
    for path, line, _ in OFFENCES:
        with (folder / path).open("a") as module:
            module.write(f"\n{line}\n")
    linted = lint(folder)
    assert linted.returncode != 0
    return linted.stdout


def test_the_code_keeps_the_contracts(tmp_path: Path) -> None:
    linted = lint(copy_of_the_code(tmp_path))
    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize(("path", "line", "contract"), OFFENCES)
def test_an_offence_breaks_its_contract(path: str, line: str, contract: str, verdicts: str) -> None:
    assert any(verdict.startswith(contract) and " BROKEN" in verdict for verdict in verdicts.splitlines())
    if not line:
        assert path.removesuffix(".py").replace("/", ".") in verdicts  # the stray module is named
