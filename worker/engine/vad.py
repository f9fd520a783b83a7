"""Where speech is: WhisperX's voice activity detection."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pyannote.core import SlidingWindowFeature
from torch import Tensor

from worker.engine.checkpoints import load_pyannote
from worker.engine.features import WINDOW_S
from worker.engine.halving import Halving
from worker.engine.results import SAMPLE_RATE, Waveform, Window
from worker.engine.whisperx_parts import vad

WEIGHTS = Path(vad.__file__).parent / "assets" / "pytorch_model.bin"  # in WhisperX's wheel


class VoiceActivityDetector:
    """Thread-safe. `batch_size` counts chunks of 5 s, of which there are two per second of audio."""

    def __init__(self, device: str, *, onset: float = 0.5, offset: float = 0.363, batch_size: int = 32) -> None:
        self._onset, self._offset = onset, offset
        self._pipeline = _load(device, onset, offset)
        self._segmentation = self._pipeline._segmentation
        self._batches = Halving("vad", batch_size, release_memory=torch.cuda.empty_cache)
        self._turn = threading.Lock()  # of jobs, batch by batch
        self._forward = self._segmentation.infer
        self._segmentation.batch_size = batch_size
        self._segmentation.infer = self._infer

    def windows(
        self, waveform: Waveform, *, on_progress: Callable[[float], None] = lambda _: None, check: Callable[[], None] = lambda: None
    ) -> tuple[Window, ...]:
        """Stretches of speech, merged to at most 30 s each, in order; empty when nobody speaks.

        `on_progress` gets 0 to 1, `check` is called after each batch and may raise to stop. Raises `OutOfMemory`.
        """
        if len(waveform) == 0:
            return ()

        def hook(*, completed: int, total: int) -> None:
            check()
            on_progress(completed / total)

        scores = self._scores(waveform, hook)
        # asked here because merge_chunks prints when there is none; a region needs a frame after the one that opens it
        if not (scores.data[:-1] > self._onset).any():
            return ()
        chunks = vad.merge_chunks(scores, WINDOW_S, onset=self._onset, offset=self._offset)
        windows = [_window(chunk, len(waveform) / SAMPLE_RATE) for chunk in chunks]
        return tuple(window for window in windows if window.start < window.end)

    def _scores(self, waveform: Waveform, hook: Callable[..., None]) -> SlidingWindowFeature:
        """Speech probabilities, shape = (frames, 1), a frame every 17 ms."""
        return self._segmentation({"waveform": torch.from_numpy(waveform).unsqueeze(0), "sample_rate": SAMPLE_RATE}, hook=hook)

    def _infer(self, chunks: Tensor) -> NDArray[np.float32]:
        with self._turn:
            return np.concatenate(self._batches.run(len(chunks), lambda part: self._forward(chunks[part])))


def _load(device: str, onset: float, offset: float) -> Any:
    """As whisperx.vad.load_vad_model, which would also make a folder in the user's home."""
    pipeline = vad.VoiceActivitySegmentation(segmentation=load_pyannote(WEIGHTS), device=torch.device(device))
    pipeline.instantiate({"onset": onset, "offset": offset, "min_duration_on": 0.1, "min_duration_off": 0.1})
    return pipeline


def _window(chunk: dict[str, Any], duration_s: float) -> Window:
    """Scores are kept for the padding of the last 5 s too, and a region may pass 30 s by a frame."""
    start = float(chunk["start"])
    return Window(start, min(float(chunk["end"]), duration_s, start + WINDOW_S))
