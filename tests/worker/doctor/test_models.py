"""Model files that are there, missing or damaged, and gated ones on a small hub on loopback."""

import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from core.settings import Settings
from tests.conftest import free_port
from worker.doctor.findings import Finding, Verdict
from worker.doctor.models import gated_access_finding, model_findings
from worker.doctor.occasion import Occasion

PYANNOTE = {"diarization_model": "pyannote-3.1"}
SEGMENTATION = "pyannote-segmentation-3.0/pytorch_model.bin"


@pytest.fixture
def folder(tmp_path: Path, model_dir: Path) -> Path:
    """The real small models; what is not to be damaged as links."""
    models = tmp_path / "models"
    models.mkdir()
    for name in ("faster-whisper-tiny.en", "campplus-zh-en"):
        (models / name).symlink_to(model_dir / name)
    shutil.copytree(model_dir / "pyannote-segmentation-3.0", models / "pyannote-segmentation-3.0")
    return models


def examined(folder: Path, occasion: Occasion = Occasion.BY_HAND, **settings: Any) -> dict[str, Finding]:
    given = {"asr_model": "tiny.en", "align_languages": (), "pull_at_start": False} | settings
    return {finding.check: finding for finding in model_findings(Settings(model_dir=folder, **given), occasion)}


def flip_a_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)[0]
        file.seek(1000)
        file.write(bytes([byte ^ 1]))


def test_models_that_are_whole_pass_by_digest(folder: Path) -> None:
    lines = examined(folder)
    assert {line.verdict for line in lines.values()} == {Verdict.OK}
    assert lines["Whisper model"].found == "tiny.en (by digest)"


def test_a_flipped_byte_is_found_with_the_command_that_mends_it(folder: Path) -> None:
    flip_a_byte(folder / SEGMENTATION)
    for pulls in (True, False):
        line = examined(folder, pull_at_start=pulls)["diarization models"]
        assert line.verdict is Verdict.WRONG
        assert line.found == f"{folder / SEGMENTATION} is not the file that was recorded (damaged or replaced)"
        assert line.remedy == f"`python -m worker.model_files pull pyannote/segmentation-3.0 --model-dir {folder}`"


def test_a_start_looks_at_sizes_alone(folder: Path) -> None:
    flip_a_byte(folder / SEGMENTATION)
    assert examined(folder, Occasion.START)["diarization models"].verdict is Verdict.OK
    (folder / SEGMENTATION).write_bytes(b"short")
    assert examined(folder, Occasion.START)["diarization models"].verdict is Verdict.WRONG


def test_a_missing_model_is_a_fault_unless_a_start_brings_it(folder: Path) -> None:
    shutil.rmtree(folder / "pyannote-segmentation-3.0")
    line = examined(folder)["diarization models"]
    assert (line.verdict, line.found) == (Verdict.WRONG, f"{folder / SEGMENTATION} is missing")
    line = examined(folder, Occasion.START, pull_at_start=True)["diarization models"]
    assert line.verdict is Verdict.WARNING
    assert line.found.endswith("is missing: will be brought at the start")
    assert "pull pyannote/segmentation-3.0" in line.remedy


def test_a_missing_alignment_model_is_no_fault(folder: Path) -> None:
    line = examined(folder, align_languages=("en", "eo"))["alignment models"]
    assert line.verdict is Verdict.WARNING
    assert line.found == "wav2vec2-en not there: word times come from Whisper's own attention"


def test_a_whisper_model_that_is_not_known_or_a_folder_that_is_none_is_a_fault(folder: Path, tmp_path: Path) -> None:
    for name in ("large-v9", str(tmp_path)):
        line = examined(folder, asr_model=name)["Whisper model"]
        assert line.verdict is Verdict.WRONG
        assert "SPILLWAY_ASR_MODEL" in line.remedy
    assert examined(folder, asr_model=str(folder / "faster-whisper-tiny.en"))["Whisper model"].verdict is Verdict.OK


def test_an_unknown_diarization_model_is_a_fault(folder: Path) -> None:
    line = examined(folder, diarization_model="resemblyzer")["diarization models"]
    assert (line.verdict, line.found) == (Verdict.WRONG, "'resemblyzer' is not known")
    assert "auto, campplus, pyannote-3.1" in line.remedy


def test_a_lock_that_cannot_be_read_is_a_fault(folder: Path) -> None:
    (folder / "models.lock.json").write_text("{")
    line = examined(folder, asr_model="large-v2")["Whisper model"]
    assert line.verdict is Verdict.WRONG
    assert "models.lock.json" in line.remedy


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    """Opens its gated repositories to one token, as the real one does."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            may = self.headers["Authorization"] == "Bearer hf_good"
            self.send_response(200 if may else 403)
            headers = {"X-Repo-Commit": "a" * 40, "ETag": '"b"', "Content-Length": "1"} if may else {"X-Error-Code": "GatedRepo"}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("settings", "verdict", "found"),
    [
        ({}, Verdict.OK, "none needed: diarization takes segmentation-3.0 and CAM++"),
        (PYANNOTE, Verdict.WRONG, "pyannote/speaker-diarization-3.1 is gated, and there is no SPILLWAY_HF_TOKEN"),
        (PYANNOTE | {"hf_token": "hf_bad"}, Verdict.WRONG, "SPILLWAY_HF_TOKEN has no access to pyannote/speaker-diarization-3.1"),
        (PYANNOTE | {"hf_token": "hf_good"}, Verdict.OK, "SPILLWAY_HF_TOKEN opens pyannote/speaker-diarization-3.1"),
        ({"hf_token": "hf_good"}, Verdict.OK, "SPILLWAY_HF_TOKEN opens pyannote/speaker-diarization-3.1"),
    ],
)
def test_access_to_gated_models_is_asked_where_they_are_wanted(
    settings: dict[str, Any], verdict: Verdict, found: str, hub: str, folder: Path
) -> None:
    line = gated_access_finding(Settings(model_dir=folder, **settings), hub=hub)
    assert (line.verdict, line.found) == (verdict, found)
    ways = ("https://huggingface.co/pyannote/speaker-diarization-3.1", "SPILLWAY_HF_TOKEN", "SPILLWAY_DIARIZATION_MODEL=campplus")
    assert verdict is Verdict.OK or all(way in line.remedy for way in ways)


def test_a_hub_that_does_not_answer_is_no_fault(folder: Path) -> None:
    line = gated_access_finding(Settings(model_dir=folder, hf_token="hf_good"), hub=f"http://127.0.0.1:{free_port()}")
    assert line.verdict is Verdict.WARNING
    assert "check the network" in line.remedy


def test_gated_models_that_were_pulled_need_no_access(folder: Path) -> None:
    for name in ("pyannote-speaker-diarization-3.1", "pyannote-wespeaker-voxceleb-resnet34-LM"):
        (folder / name).mkdir()
    assert gated_access_finding(Settings(model_dir=folder, **PYANNOTE)).found == "already pulled: no access is needed any more"
