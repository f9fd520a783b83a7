"""The samples that the models get, out of those that were decoded: recordings in floats may hold anything."""

import numpy as np

from worker.engine.results import Waveform

OVERSHOOT = 8.0  # times full scale; decoders of lossy formats stay below 2
LARGEST_SCALE = 2.0**31  # some recordings in floats are scaled as integers of 16 or 32 bits
DAMAGED_SHARE = 0.01  # of the samples that are not 0: more than this beyond full scale are the recording's own scale


def waveform_of(audio: bytes) -> Waveform:
    """What is damaged is silent, and what is scaled as integers is brought to full scale.

    One sample that is no number would silence seconds around it, and Whisper hears other words when the scale is another.
    """
    waveform = np.frombuffer(audio, dtype=np.float32).copy()  # the models want to own what they read
    if len(waveform) and not -OVERSHOOT <= waveform.min() <= waveform.max() <= OVERSHOOT:  # nan answers no
        _mend(waveform)
    return waveform


def _mend(waveform: Waveform) -> None:
    waveform[~(np.abs(waveform) <= LARGEST_SCALE)] = 0.0
    beyond = np.abs(waveform) > OVERSHOOT
    if np.count_nonzero(beyond) > DAMAGED_SHARE * np.count_nonzero(waveform):
        waveform /= np.abs(waveform).max()
    else:
        waveform[beyond] = 0.0
