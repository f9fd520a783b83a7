from pathlib import Path

import pytest

from core.media import Ffmpeg
from worker.doctor.findings import Finding, faults
from worker.doctor.tools import ffmpeg_findings


def examined(program: str) -> list[Finding]:
    return list(ffmpeg_findings(Ffmpeg(program)))


def wrapped(folder: Path, ffmpeg: str, pipe: str) -> str:
    """The real ffmpeg, its output led through a filter."""
    program = folder / "ffmpeg"
    program.write_text(f"#!/bin/sh\n'{ffmpeg}' \"$@\" | {pipe}\n")
    program.chmod(0o755)
    return str(program)


def test_a_whole_ffmpeg_passes(ffmpeg: str) -> None:
    lines = {finding.check: finding for finding in examined(ffmpeg)}
    assert faults(lines.values()) == []
    assert lines["ffmpeg"].found.startswith("ffmpeg version")
    assert lines["ffmpeg decoding"].found == "1600 samples of 0.1 s of silence"


def test_no_ffmpeg_is_said_with_how_to_get_one(tmp_path: Path) -> None:
    (line,) = faults(examined(str(tmp_path / "ffmpeg")))
    assert f"there is no ffmpeg at '{tmp_path / 'ffmpeg'}'" in line.found
    assert "apt-get install ffmpeg" in line.remedy
    assert "SPILLWAY_FFMPEG" in line.remedy


@pytest.mark.parametrize(("ability", "found"), [("opus", "decoders opus"), ("aresample", "filters aresample"), ("pipe", "protocols pipe")])
def test_a_build_without_an_ability_is_told_which(ability: str, found: str, tmp_path: Path, ffmpeg: str) -> None:
    (line,) = faults(examined(wrapped(tmp_path, ffmpeg, f"grep -vaw {ability}")))
    assert (line.check, line.found) == ("ffmpeg abilities", f"this build lacks {found}")
    assert "SPILLWAY_FFMPEG" in line.remedy


def test_an_ffmpeg_that_gives_too_few_samples_is_found(tmp_path: Path, ffmpeg: str) -> None:
    program = wrapped(tmp_path, ffmpeg, 'if [ "$5" = -protocol_whitelist ]; then head -c 6396; else cat; fi')
    (line,) = faults(examined(program))
    assert (line.check, line.found) == ("ffmpeg decoding", "1599 samples of 0.1 s of silence, 1600 are due")
