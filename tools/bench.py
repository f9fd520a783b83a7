"""`make bench`: our engine beside plain WhisperX 3.2.0, same audio, same models, same process; seconds and real-time factors.

On a GPU: `python -m tools.bench --device cuda --asr-model large-v2`. Machines are noisy: read the ratios, not the seconds.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
import whisperx
from pyannote.audio.pipelines import SpeakerDiarization
from rich.console import Console
from rich.table import Table
from whisperx.diarize import assign_word_speakers

from core.job import JobOptions
from core.media import SAMPLE_RATE, Ffmpeg
from core.settings import Settings
from core.transcript import Transcript
from tools.stack_parts import DEFAULTS, ROOT, ffmpeg
from worker.engine.campplus import CampPlus
from worker.engine.checkpoints import load_pyannote
from worker.engine.diarization import parameters
from worker.engine.engine import Engine
from worker.engine.load import load_engine
from worker.model_files import resolve_alignment, resolve_asr, resolve_diarization
from worker.work import Work

SEGMENTATION_BATCH = 32  # of the model's own configuration; ours takes less on a CPU
STAGES = ("vad + asr", "diarization", "word times", "speakers")


@dataclass
class Timing:
    """Seconds by stage; `total_s` is what a clock on the wall saw."""

    total_s: float = 0.0
    stages_s: dict[str, float] = field(default_factory=dict)
    note: str = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.stages_s[name] = time.perf_counter() - begun


def main() -> None:
    given = _arguments()
    settings = _settings(given)
    audio = Ffmpeg(settings.ffmpeg).decode(given.audio) * given.repeat
    seconds = len(audio) / 4 / SAMPLE_RATE
    engine = load_engine(settings)
    _ours(engine, audio[: 4 * SAMPLE_RATE * 5])  # kernels, caches and pools are made at the first call
    ours = _middle([_ours(engine, audio) for _ in range(given.runs)])
    together_s = _together(engine, audio, given.jobs)
    engine.close()
    plain = _Plain(settings)
    plain.run(audio[: 4 * SAMPLE_RATE * 5])
    theirs = _middle([plain.run(audio) for _ in range(given.runs)])
    _show(settings, seconds, given, ours, theirs, together_s)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    parser.add_argument("--audio", type=Path, default=ROOT / "samples" / "dialogue.flac")
    parser.add_argument("--repeat", type=int, default=2, help="the audio this often in a row")
    parser.add_argument("--runs", type=int, default=3, help="of which the median is shown")
    parser.add_argument("--jobs", type=int, default=4, help="jobs at once, to share batches")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--asr-model", default=DEFAULTS["SPILLWAY_ASR_MODEL"])
    parser.add_argument("--model-dir", type=Path, default=Path(DEFAULTS["SPILLWAY_MODEL_DIR"]))
    parser.add_argument("--cpu-threads", type=int, default=0, help="as SPILLWAY_CPU_THREADS")
    parser.add_argument("--batch-size", type=int, default=16)
    return parser.parse_args()


def _settings(given: argparse.Namespace) -> Settings:
    return Settings(
        device=given.device,
        asr_model=given.asr_model,
        model_dir=given.model_dir,
        asr_batch_size=given.batch_size,
        segmentation_batch_size=SEGMENTATION_BATCH,
        ffmpeg=ffmpeg(),
        pull_on_first_use=False,
        cpu_threads=given.cpu_threads,
    )


def _ours(engine: Engine, audio: bytes) -> Timing:
    begun = time.perf_counter()
    transcript = engine.transcribe(_work("bench", audio))
    took = transcript.run.stages_s
    stages = {
        "vad + asr": took["vad"] + took["asr"],
        "diarization": took.get("diarization", 0.0),
        "word times": took["alignment"],
        "speakers": took["assignment"],
    }
    return Timing(time.perf_counter() - begun, stages, _timing_of(transcript))


def _together(engine: Engine, audio: bytes, jobs: int) -> float:
    begun = time.perf_counter()
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(engine.transcribe, [_work(f"bench-{number}", audio) for number in range(jobs)]))
    return time.perf_counter() - begun


def _work(name: str, audio: bytes) -> Work:
    nothing: Callable[..., None] = lambda *_: None  # noqa: E731
    duration_s = len(audio) / 4 / SAMPLE_RATE
    return Work(name, 1, JobOptions(language="en"), audio, 0.0, duration_s, {}, nothing, nothing, nothing)


def _timing_of(transcript: Transcript) -> str:
    return "/".join(sorted({word.timing for segment in transcript.segments for word in segment.words}))


class _Plain:
    """WhisperX as its README shows it; the diarization pipeline is pyannote's own, from the same files."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._model = whisperx.load_model(
            str(resolve_asr(settings.asr_model, settings.model_dir)),
            settings.device,
            compute_type="int8" if settings.device == "cpu" else "float16",
            language="en",
            threads=os.cpu_count(),  # its stages run in a row, so each may have every core
        )
        self._diarization = _stock_diarization(settings)
        files = resolve_alignment("en", settings.model_dir)
        self._aligner = whisperx.load_align_model("en", settings.device, model_dir=str(files.path.parent)) if files else None

    def run(self, audio: bytes) -> Timing:
        waveform = np.frombuffer(audio, dtype=np.float32).copy()
        timing, begun = Timing(note="aligned" if self._aligner else "none: no wav2vec2 here"), time.perf_counter()
        with timing.stage("vad + asr"):
            result = self._model.transcribe(waveform, batch_size=self._settings.asr_batch_size)
        if self._aligner:
            with timing.stage("word times"):
                result = whisperx.align(result["segments"], *self._aligner, waveform, self._settings.device)
        with timing.stage("diarization"):
            turns = self._diarization({"waveform": torch.from_numpy(waveform)[None], "sample_rate": SAMPLE_RATE})
        with timing.stage("speakers"):
            assign_word_speakers(_frame(turns), result)
        timing.total_s = time.perf_counter() - begun
        return timing


class _OneMask(CampPlus):
    """As pyannote's own pipeline calls an embedding: one mask at a time."""

    def forward(self, waveforms: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        embeddings: torch.Tensor = super().forward(waveforms, weights[:, None])[:, 0]
        return embeddings


def _stock_diarization(settings: Settings) -> Any:
    files = resolve_diarization(settings.diarization_model, settings.model_dir)
    embedding = _OneMask.load(files.embedding) if files.kind == "campplus" else load_pyannote(files.embedding)
    pipeline = SpeakerDiarization(
        segmentation=load_pyannote(files.segmentation),
        embedding=embedding,
        embedding_exclude_overlap=True,
        segmentation_batch_size=settings.segmentation_batch_size,
        embedding_batch_size=settings.segmentation_batch_size,
    )
    pipeline.instantiate(parameters(files.kind))
    return pipeline.to(torch.device(settings.device))


def _frame(turns: Any) -> Any:
    rows = [(segment.start, segment.end, label) for segment, _, label in turns.itertracks(yield_label=True)]
    return pandas.DataFrame(rows, columns=["start", "end", "speaker"])


def _middle(timings: Sequence[Timing]) -> Timing:
    median = statistics.median_low([timing.total_s for timing in timings])
    return next(timing for timing in timings if timing.total_s == median)


def _show(settings: Settings, seconds: float, given: argparse.Namespace, ours: Timing, theirs: Timing, together_s: float) -> None:
    table = Table(title=f"{seconds:.0f} s of audio, {settings.asr_model} on {settings.device}, median of {given.runs}")
    for column in ("", "Spillway", "plain WhisperX", "ratio"):
        table.add_column(column, justify="left" if not column else "right")
    for stage in STAGES:
        mine, other = ours.stages_s.get(stage), theirs.stages_s.get(stage)
        table.add_row(stage, _seconds(mine), _seconds(other), f"{other / mine:.2f}" if mine and other else "")
    table.add_row("word times from", ours.note, theirs.note, "")
    table.add_row("in all (stages overlap)", _seconds(ours.total_s), _seconds(theirs.total_s), f"{theirs.total_s / ours.total_s:.2f}")
    table.add_row("real-time factor", f"{seconds / ours.total_s:.2f}x", f"{seconds / theirs.total_s:.2f}x", "")
    table.add_row(f"{given.jobs} jobs at once", f"{given.jobs * seconds / together_s:.2f}x", "", "")
    Console().print(table)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"


if __name__ == "__main__":
    main()
