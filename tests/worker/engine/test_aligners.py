"""Which languages can be aligned, and what happens when one cannot yet."""

from pathlib import Path

import pytest

from core.errors import ModelMissing
from tests.conftest import wait_for
from worker.engine.aligners import Aligners

pytestmark = pytest.mark.models


def test_a_missing_model_is_brought_once_beside_the_jobs(tmp_path: Path) -> None:
    asked: list[str] = []
    aligners = Aligners(tmp_path, "cpu", asked.append)
    assert [aligners.get("en") for _ in range(3)] == [None, None, None]
    wait_for(lambda: asked, "the pull")
    assert asked == ["en"]


def test_a_pull_that_fails_harms_nobody(tmp_path: Path) -> None:
    asked: list[str] = []

    def away(language: str) -> None:
        asked.append(language)
        raise ModelMissing("no network")

    aligners = Aligners(tmp_path, "cpu", away)
    assert aligners.get("de") is None
    wait_for(lambda: asked, "the pull")
    assert aligners.get("de") is None


def test_without_leave_to_pull_nothing_is_brought(tmp_path: Path) -> None:
    assert Aligners(tmp_path, "cpu", None).get("en") is None


def test_a_damaged_model_is_left_aside(tmp_path: Path) -> None:
    (tmp_path / "wav2vec2-en").mkdir()
    (tmp_path / "wav2vec2-en" / "torn.bin").write_bytes(b"half")
    assert Aligners(tmp_path, "cpu", None).get("en") is None
