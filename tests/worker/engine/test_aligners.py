"""Which languages can be aligned, and what happens when one cannot yet."""

from pathlib import Path

import pytest

from core.errors import ModelMissing
from tests.conftest import wait_for
from tests.worker.engine.wav2vec2_models import save_model
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


def save(model_dir: Path, language: str) -> int:
    """Bytes of the model's weights."""
    folder = save_model(model_dir / f"wav2vec2-{language}", "|abc", "layer", stable=True)
    return max(file.stat().st_size for file in folder.iterdir())


def test_the_least_recently_used_model_leaves_when_the_bytes_are_spent(tmp_path: Path) -> None:
    size = max([save(tmp_path, language) for language in ("ja", "zh", "nl")])
    aligners = Aligners(tmp_path, "cpu", None, most_bytes=2 * size)
    japanese, chinese = aligners.get("ja"), aligners.get("zh")
    assert japanese is not None
    assert chinese is not None
    assert aligners.get("ja") is japanese
    assert aligners.get("nl") is not None
    assert aligners.get("ja") is japanese
    assert aligners.get("zh") is not chinese


def test_a_model_that_is_needed_loads_whatever_its_size(tmp_path: Path) -> None:
    save(tmp_path, "ja")
    aligners = Aligners(tmp_path, "cpu", None, most_bytes=0)
    japanese = aligners.get("ja")
    assert japanese is not None
    assert aligners.get("ja") is japanese
