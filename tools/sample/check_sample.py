"""Measures how well the onsets in dialogue.json hold in dialogue.flac, by four means that know nothing of the voices.

    python -m tools.sample.check_sample SAMPLE_FOLDER WHISPER_FOLDER

WHISPER_FOLDER holds a CTranslate2 Whisper model. Every difference is "measured minus stated", in milliseconds.
"""

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from faster_whisper import WhisperModel
from pocketsphinx import Decoder

SAMPLE_RATE = 16_000
STEP = 40  # 2.5 ms at 16 kHz
WINDOW = 160  # 10 ms
SPEECH_RMS = 0.0025  # -52 dBFS: 13 dB over the noise floor
REACH_MS = 50  # how far around a stated onset spectral change is looked at

Waveform = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Word:
    word: str
    start: float
    speaker: str
    after_pause: bool  # first of the recording, or after punctuation


def read_words(reference: dict[str, Any]) -> list[Word]:
    written = reference["text"].split()
    paused = [True, *(not before[-1].isalnum() for before, _ in pairwise(written))]
    return [Word(**word, after_pause=pause) for word, pause in zip(reference["words"], paused, strict=True)]


def summary(differences: list[float]) -> str:
    """Signed median, then the absolute ones, seconds in, milliseconds out."""
    signed = np.array(differences) * 1000
    spread = np.abs(signed - np.median(signed))
    values = np.median(signed), np.median(np.abs(signed)), np.median(spread), np.percentile(spread, 90)
    return "n {}, median {:.0f}, median abs {:.0f}; around the median: median abs {:.0f}, p90 {:.0f}".format(len(signed), *values)


def frames(waveform: Waveform) -> Waveform:
    """[frames, WINDOW], frame i centred on sample i * STEP."""
    padded = np.pad(waveform, WINDOW // 2)
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::STEP])


def energy_onset(rms: Waveform, word: Word) -> float:
    """Seconds where sound first rises over the noise, from 100 ms before the stated onset."""
    first = max(0, round((word.start - 0.1) * SAMPLE_RATE / STEP))
    return (first + int(np.argmax(rms[first:] > SPEECH_RMS))) * STEP / SAMPLE_RATE


def check_energy(waveform: Waveform, words: list[Word]) -> None:
    rms = np.sqrt(np.mean(np.square(frames(waveform)), axis=1))
    for speaker in "AB":
        paused = [word for word in words if word.after_pause and word.speaker == speaker]
        print(f"energy after pauses, {speaker}:", summary([energy_onset(rms, word) - word.start for word in paused]))


def spectral_change(waveform: Waveform) -> Waveform:
    """How much the log spectrum (500-Hz bands) changes over the 15 ms around each frame."""
    power = np.square(np.abs(np.fft.rfft(frames(waveform) * np.hanning(WINDOW), 512)))
    bands = np.log(power[:, :256].reshape(-1, 16, 16).sum(axis=2) + 1e-4)
    change = np.zeros(len(bands))
    change[3:-3] = np.sqrt(np.mean(np.square(bands[6:] - bands[:-6]), axis=1))
    return change


def check_change(waveform: Waveform, words: list[Word]) -> None:
    """Where spectral change, averaged over the words amid running speech, is highest around the stated onsets."""
    change = spectral_change(waveform)
    reach = round(REACH_MS * SAMPLE_RATE / 1000 / STEP)
    for speaker in "AB":
        amid = [word for word in words if not word.after_pause and word.speaker == speaker]
        centres = [round(word.start * SAMPLE_RATE / STEP) for word in amid]
        mean = np.mean([change[centre - reach : centre + reach + 1] for centre in centres], axis=0)
        smooth = np.convolve(mean, np.ones(5) / 5, "valid")
        peak = (int(np.argmax(smooth)) + 2 - reach) * STEP / SAMPLE_RATE * 1000
        print(f"spectral change amid speech, {speaker}: highest at {peak:.1f}, {len(amid)} words")


def aligned_starts(decoder: Decoder, pcm: bytes, text: str) -> list[float]:
    """Seconds from the start of pcm at which pocketsphinx's forced alignment puts each word."""
    decoder.set_align_text(text)
    for second_pass in (False, True):
        if second_pass:
            decoder.set_alignment()
        decoder.start_utt()
        decoder.process_raw(pcm, full_utt=True)
        decoder.end_utt()
    return [entry.start / 100 for entry in decoder.get_alignment() if entry.name[0] not in "<["]


def check_aligner(waveform: Waveform, reference: dict[str, Any], words: list[Word]) -> None:
    decoder = Decoder(samprate=SAMPLE_RATE, bestpath=False, loglevel="FATAL")
    differences: dict[str, list[float]] = {"A": [], "B": []}
    for turn in reference["turns"]:
        said = [word for word in words if turn["start"] <= word.start < turn["end"]]
        text = " ".join(word.word.lower() for word in said).replace("20", "twenty")
        first, last = (round((turn[edge] + by) * SAMPLE_RATE) for edge, by in (("start", -0.15), ("end", 0.15)))
        pcm = (waveform[first:last] * 32767).astype(np.int16).tobytes()
        starts = aligned_starts(decoder, pcm, text)
        pairs = zip(starts, said, strict=True)
        differences[turn["speaker"]] += [first / SAMPLE_RATE + start - word.start for start, word in pairs if not word.after_pause]
    for speaker, values in differences.items():
        print(f"pocketsphinx amid speech, {speaker}:", summary(values))


def plain_words(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9' ]", " ", text.lower()).split()


def heard(model: WhisperModel, path: Path, beam_size: int) -> Iterator[Any]:
    segments, _ = model.transcribe(str(path), language="en", beam_size=beam_size, word_timestamps=True)
    for segment in segments:
        yield from segment.words or []


def check_whisper(path: Path, folder: str, reference: dict[str, Any], words: list[Word]) -> None:
    for compute_type, beam_size in (("int8", 1), ("int8", 5), ("float32", 1), ("float32", 5)):
        model = WhisperModel(folder, "cpu", compute_type=compute_type, cpu_threads=1)
        found = list(heard(model, path, beam_size))
        text = "".join(word.word for word in found)
        same = plain_words(text) == plain_words(reference["text"])
        print(f"whisper {compute_type}, beam {beam_size}: {'no error' if same else 'DIFFERS'}:{text}")
        if same:
            differences = [other.start - word.start for other, word in zip(found, words, strict=True)]
            print("  onsets:", summary(differences))
            far = [(w.word, w.start, round(d, 2)) for w, d in zip(words, differences, strict=True) if abs(d) > 0.2]
            print("  over 200 ms:", far)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the onsets in dialogue.json against dialogue.flac.")
    parser.add_argument("sample", type=Path)
    parser.add_argument("whisper")
    arguments = parser.parse_args()
    reference = json.loads((arguments.sample / "dialogue.json").read_text(encoding="utf-8"))
    waveform, _ = soundfile.read(arguments.sample / "dialogue.flac")
    words = read_words(reference)
    check_energy(waveform, words)
    check_change(waveform, words)
    check_aligner(waveform, reference, words)
    check_whisper(arguments.sample / "dialogue.flac", arguments.whisper, reference, words)


if __name__ == "__main__":
    main()
