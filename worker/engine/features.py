"""What Whisper's encoder takes."""

import numpy as np
from numpy.typing import NDArray

from worker.engine.results import SAMPLE_RATE, Waveform, Window
from worker.engine.whisperx_parts import log_mel_spectrogram

Features = NDArray[np.float32]  # shape = (n_mels, 3000): log10 mel energies, scaled, one frame per 10 ms

WINDOW_S = 30
WINDOW_SAMPLES = WINDOW_S * SAMPLE_RATE  # 480000
HOP_SAMPLES = 160  # 10 ms


def cut(waveform: Waveform, window: Window) -> Waveform:
    """The samples of a window, at most 30 s. Bounds are truncated, not rounded: WhisperX does so."""
    first, last = int(window.start * SAMPLE_RATE), int(window.end * SAMPLE_RATE)
    return waveform[first : min(last, first + WINDOW_SAMPLES)]


def log_mel(samples: Waveform, n_mels: int) -> Features:
    """Features of at most 30 s, padded with silence to 30 s; `n_mels` is 80, or 128 for large-v3."""
    spectrogram = log_mel_spectrogram(samples, n_mels=n_mels, padding=WINDOW_SAMPLES - len(samples))
    features: Features = spectrogram.numpy()
    return features


def frames(samples: Waveform) -> int:
    """How many of the 3000 feature frames are not padding."""
    return -(-len(samples) // HOP_SAMPLES)
