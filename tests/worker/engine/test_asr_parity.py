"""Plain WhisperX 3.2.0 and ours, the same model, options and language: the same text in every window."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from worker.engine.asr import DecodeOptions, SpeechRecognizer
from worker.engine.results import SAMPLE_RATE, Waveform
from worker.engine.vad import VoiceActivityDetector
from worker.engine.whisperx_parts import vad

import whisperx.asr  # isort: skip - after whisperx_parts, which keeps it quiet

pytestmark = pytest.mark.models

CLIPS = Path(__file__).parents[2] / "data" / "librivox"


@pytest.fixture(scope="module")
def speech() -> Waveform:
    clips = [soundfile.read(clip, dtype="float32")[0] for clip in sorted(CLIPS.glob("*.flac"))]
    pause = np.zeros(SAMPLE_RATE // 2, np.float32)
    return np.concatenate([part for clip in clips * 2 for part in (clip, pause)])


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # WhisperX's own
@pytest.mark.parametrize(("compute_type", "prompt"), [("int8", None), ("float32", "Sense and Sensibility, by Jane Austen.")])
def test_the_text_of_every_window_is_plain_whisperx(model_dir: Path, speech: Waveform, compute_type: str, prompt: str | None) -> None:
    folder = model_dir / "faster-whisper-tiny.en"
    theirs = whisperx.asr.load_model(
        str(folder),
        "cpu",
        compute_type=compute_type,
        language="en",
        asr_options={"initial_prompt": prompt},
        vad_model=vad.load_vad_model(torch.device("cpu")),
        threads=1,
    ).transcribe(speech, batch_size=4)

    recognizer = SpeechRecognizer(folder, device="cpu", compute_type=compute_type, batch_size=4, cpu_threads=1)
    options = DecodeOptions(language="en", initial_prompt=prompt, filters=False)
    windows = VoiceActivityDetector("cpu").windows(speech)
    _, ours = recognizer.recognize(speech, windows, options, job="job", on_window=lambda *_: None, check=lambda: None)
    recognizer.close()

    assert len(ours) >= 2
    assert [recognition.text for recognition in ours] == [segment["text"] for segment in theirs["segments"]]
    bounds = [bound for recognition in ours for bound in (recognition.window.start, recognition.window.end)]
    their_bounds = [bound for segment in theirs["segments"] for bound in (segment["start"], segment["end"])]
    assert bounds == pytest.approx(their_bounds, abs=0.02)  # WhisperX may end a few ms behind the recording
