"""Samples as recordings in floats may hold them, damage included."""

import math

import numpy as np
import pytest

from worker.engine.results import Waveform
from worker.engine.waveforms import waveform_of

TONE: Waveform = (0.5 * np.sin(np.arange(16_000) / 20)).astype(np.float32)


@pytest.mark.parametrize("loudest", [0.001, 1.0, 1.7])
def test_sound_is_left_as_it_is(loudest: float) -> None:
    given = TONE * np.float32(loudest)
    np.testing.assert_array_equal(waveform_of(given.tobytes()), given)


@pytest.mark.parametrize("damage", [math.nan, math.inf, -math.inf, 1e38, 1130.0])
def test_what_is_damaged_is_silent_and_the_rest_is_as_it_was(damage: float) -> None:
    given = TONE.copy()
    given[100:200] = damage
    mended = waveform_of(given.tobytes())
    assert not mended[100:200].any()
    np.testing.assert_array_equal(np.delete(mended, np.s_[100:200]), np.delete(TONE, np.s_[100:200]))


@pytest.mark.parametrize("scale", [2.0**15, 2.0**31])
def test_what_is_scaled_as_integers_is_brought_to_full_scale(scale: float) -> None:
    given = TONE * np.float32(scale)
    given[0] = math.nan
    np.testing.assert_allclose(waveform_of(given.tobytes()), 2 * TONE, atol=1e-3)


def test_a_little_speech_in_a_long_silence_is_brought_to_full_scale_too() -> None:
    mended = waveform_of(np.concatenate([np.zeros(200 * len(TONE), np.float32), TONE * np.float32(2**15)]).tobytes())
    np.testing.assert_allclose(mended[-len(TONE) :], 2 * TONE, atol=1e-3)


@pytest.mark.parametrize("audio", [b"", np.full(100, math.nan, np.float32).tobytes()])
def test_without_any_sound_it_is_silence(audio: bytes) -> None:
    assert not waveform_of(audio).any()
