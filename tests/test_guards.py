"""Conventions that a reader relies on, turned into failures."""

import inspect
import re

from core import errors
from tests.conftest import ROOT

# Who may look at the environment besides core/settings.py, and why.
READERS = {
    "core/settings.py",
    "client/cli.py",  # stands alone: SPILLWAY_URL says where the service is, SPILLWAY_API_KEY is its key
    "worker/__main__.py",  # hands it on to one process per GPU
    "worker/doctor/cudnn_sets.py",  # the loader's own LD_LIBRARY_PATH
    "worker/doctor/examine.py",  # CUDA's own variables
    "worker/model_pull.py",  # pip's and uv's own variables name the package index
}
PACKAGES = ("core", "service", "worker", "dispatcher", "client")


def test_only_the_settings_read_the_environment() -> None:
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    readers = {str(path.relative_to(ROOT)) for path in sources if re.search(r"os\.(environ|getenv)", path.read_text())}
    assert readers == READERS


def test_every_error_that_a_client_can_meet_has_a_row_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.CallerError | errors.OurError)]
    codes = {kind.code for kind in kinds} - {errors.SpillwayError.code, errors.SettingsError.code}
    assert {code for code in codes if f"`{code}`" not in readme} == set()


def test_every_error_of_the_tree_is_drawn_at_the_top_of_its_file() -> None:
    drawn = errors.__doc__ or ""
    names = {name for name, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__}
    assert {name for name in names if not re.search(rf"\b{name}\b", drawn)} == set()


def test_a_broad_except_stands_only_where_everything_must_be_answered() -> None:
    places = {
        "worker/runner.py",  # whatever breaks, the job gets an answer
        "worker/remote.py",  # the same, in a container on Modal
        "worker/container.py",  # whatever breaks there is the answer to every bundle: Modal starts a container that fails again and again
        "dispatcher/fetching.py",  # the same, of a source
        "dispatcher/delivering.py",  # the same, of a delivery
        "dispatcher/burst/calls.py",  # whatever Modal's client raises is its failure, in our words
        "dispatcher/burst/flight.py",  # whatever breaks, the jobs of a call go back
        "dispatcher/burst/errands.py",  # whatever breaks, the next one is done
        "worker/engine/engine.py",  # whatever breaks in diarization, the words are still there
        "worker/engine/aligners.py",  # whatever breaks in a download that no job waits for
        "worker/engine/batching.py",  # whatever breaks in a batch belongs to its jobs, and the thread serves the next
    }
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    broad = re.compile(r"except( \(?(Base)?Exception\b.*)?:")
    assert {str(path.relative_to(ROOT)) for path in sources if broad.search(path.read_text())} == places


def test_nobody_imports_the_deployment() -> None:
    """It builds what runs on Modal, at import; whoever needs to know of it asks `core.burst` or the settings."""
    sources = [path for package in (*PACKAGES, "tools") for path in (ROOT / package).rglob("*.py")]
    assert [path for path in sources if re.search(r"^\s*(import|from) modal_deploy", path.read_text(), re.MULTILINE)] == []


def test_nothing_not_proven_is_claimed_without_the_command_that_would_prove_it() -> None:
    rows = [line for line in (ROOT / "docs" / "not-proven.md").read_text().splitlines() if line.startswith("| ") and "---" not in line]
    assert len(rows) > 1
    assert all("`" in row.split("|")[3] for row in rows[1:])
