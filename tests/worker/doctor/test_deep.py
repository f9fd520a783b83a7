"""The self-test: which libraries count as one cuDNN, how a child's end is read, and a real run on the CPU."""

import shutil
import sys
from pathlib import Path

import pytest

from core.errors import EngineFailed
from core.job import Stage
from core.settings import PREFIX, Settings
from core.transcript import Transcript
from worker.doctor.child import CHECK, COMMAND, MEANINGS, run_deep
from worker.doctor.findings import Finding, Verdict
from worker.doctor.mapped import mapped_finding, mapped_libraries
from worker.work import Work

TORCH = "/usr/lib/python3.11/site-packages/torch/lib"
OTHER = "/usr/lib/python3.11/site-packages/nvidia/cudnn/lib"
CTRANSLATE2 = "/usr/lib/python3.11/site-packages/ctranslate2.libs"


def maps(*paths: str) -> str:
    """As /proc/PID/maps: a file is mapped in several parts."""
    parts = [f"7f00000{place}000-7f00000{place}fff r--p 00000000 fe:00 4711 {' ' * 20}{path}\n" for place, path in enumerate(paths)]
    return "".join(parts * 2) + "7ffd0000-7ffd1000 rw-p 00000000 00:00 0 [stack]\n7ffd2000-7ffd3000 rw-p 00000000 00:00 0\n"


def judge(*paths: str, device: str = "cuda") -> Finding:
    return mapped_finding(mapped_libraries(maps(*paths)), device)


def test_torchs_cudnn_under_ctranslate2s_copy_of_the_door_is_one_set() -> None:
    ops, cnn, door = f"{TORCH}/libcudnn_ops_infer.so.8", f"{TORCH}/libcudnn_cnn_infer.so.8", f"{CTRANSLATE2}/libcudnn-463fd6d5.so.8.9.7"
    finding = judge(ops, cnn, door, f"{TORCH}/libcublas.so.11", "/usr/lib/libc.so.6")
    assert finding.verdict == Verdict.OK
    assert f"libcublas.so.11 in {TORCH}" in finding.found
    assert "libc.so.6" not in finding.found


def test_two_sets_of_cudnn_are_wrong_and_both_are_named() -> None:
    finding = judge(f"{TORCH}/libcudnn_ops_infer.so.8", f"{OTHER}/libcudnn_cnn_infer.so.8")
    assert finding.verdict == Verdict.WRONG
    assert TORCH in finding.found
    assert OTHER in finding.found
    assert finding.remedy


def test_one_library_from_two_places_is_two_sets() -> None:
    assert judge(f"{TORCH}/libcudnn_ops_infer.so.8", f"{OTHER}/libcudnn_ops_infer.so.8.9.7").verdict == Verdict.WRONG


def test_a_gpu_run_that_used_no_cudnn_is_wrong() -> None:
    assert judge(f"{TORCH}/libcudnn.so.8", f"{TORCH}/libtorch_cuda.so").verdict == Verdict.WRONG


def test_on_a_cpu_no_cudnn_is_expected() -> None:
    finding = judge(f"{CTRANSLATE2}/libctranslate2-d3638643.so.4.4.0", device="cpu")
    assert finding.verdict == Verdict.OK
    assert "ran on the CPU" in finding.found


def ended(script: str) -> Finding:
    [finding] = run_deep([sys.executable, "-c", script])
    assert finding.check == CHECK
    assert finding.verdict == Verdict.WRONG
    return finding


@pytest.mark.parametrize("text", MEANINGS)
def test_a_child_that_a_library_ended_is_explained(text: str) -> None:
    finding = ended(f"import os, sys; sys.stderr.write('noise\\nError: {text} and so on\\nmore\\n'); sys.stderr.flush(); os.abort()")
    meaning, remedy = MEANINGS[text]
    assert finding.found.startswith(meaning)
    assert "SIGABRT" in finding.found
    assert finding.remedy == remedy


def test_the_loaders_own_words_for_a_missing_libnvrtc_are_not_taken_for_a_missing_cudnn() -> None:
    said = "Could not load library libcudnn_ops_infer.so.8. Error: libnvrtc.so: cannot open shared object file"
    assert "libnvrtc.so" in ended(f"import sys; sys.exit({said!r})").remedy


def test_a_crash_without_a_word_is_taken_for_mixed_cudnn() -> None:
    assert "two cuDNN 8 sets" in ended("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)").found


def test_a_child_that_fails_otherwise_leaves_its_last_line() -> None:
    assert "ended with status 1: ImportError: numpy went away" in ended("raise ImportError('numpy went away')").found


def test_a_child_that_hangs_is_ended() -> None:
    [finding] = run_deep([sys.executable, "-c", "import threading; threading.Event().wait()"], timeout_s=1)
    assert "did not end within 1 s" in finding.found


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch, model_dir: Path, ffmpeg: str) -> None:
    settings = {"DEVICE": "cpu", "ASR_MODEL": "tiny.en", "MODEL_DIR": model_dir, "FFMPEG": ffmpeg, "CPU_THREADS": 2}
    for name, value in settings.items():
        monkeypatch.setenv(PREFIX + name, str(value))


@pytest.mark.models
@pytest.mark.usefixtures("cpu")
def test_a_moment_of_speech_runs_through_every_stage() -> None:
    findings = {finding.check: finding for finding in run_deep(COMMAND)}
    assert [f for f in findings.values() if f.verdict != Verdict.OK] == []
    assert list(findings) == [
        "deep: models", "deep: vad", "deep: asr", "deep: diarization", "deep: alignment", "deep: assignment", "mapped libraries",
    ]  # fmt: skip
    assert " s on cpu" in findings["deep: asr"].found
    assert "ran on the CPU: libctranslate2" in findings["mapped libraries"].found


@pytest.mark.models
def test_a_stage_that_breaks_is_told_from_those_before_and_after_it(ffmpeg: str) -> None:
    from worker.doctor.deep import SAMPLE, stage_findings

    def transcribe(work: Work) -> Transcript:
        for stage in (Stage.VAD, Stage.ASR):
            work.report(stage, 0.1)
        work.keep(Stage.ASR, b"")
        raise EngineFailed("the embedding is broken", stage=Stage.DIARIZATION)

    findings = stage_findings(transcribe, Settings(device="cpu", ffmpeg=ffmpeg), SAMPLE)
    assert [finding.verdict for finding in findings] == [
        Verdict.OK, Verdict.OK, Verdict.WRONG, Verdict.NOT_CHECKED, Verdict.NOT_CHECKED,
    ]  # fmt: skip
    assert findings[2].found == "the embedding is broken"


@pytest.mark.models
@pytest.mark.usefixtures("cpu")
def test_a_model_that_lacks_a_file_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch, model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(model_dir, tmp_path / "models", ignore=shutil.ignore_patterns("model.bin"))
    monkeypatch.setenv(f"{PREFIX}MODEL_DIR", str(tmp_path / "models"))
    loading, *rest = run_deep(COMMAND)
    assert loading.check == "deep: models"
    assert loading.verdict == Verdict.WRONG
    assert "model.bin" in loading.found
    assert {finding.verdict for finding in rest} == {Verdict.NOT_CHECKED}
