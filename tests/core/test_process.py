import pytest

from core.process import begin


def test_a_wrong_setting_ends_the_process_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPILLWAY_BEAMS", "1")
    with pytest.raises(SystemExit, match=r"^spillway dispatcher: unknown setting SPILLWAY_BEAMS: "):
        begin("dispatcher")
