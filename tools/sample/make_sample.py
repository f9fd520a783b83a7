"""Makes samples/dialogue.flac and samples/dialogue.json: a dialogue whose turns and word onsets are known.

python make_sample.py OUTPUT_FOLDER
"""

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile

from tools.sample.voices import (
    SAMPLE_RATE,
    SEED,
    Sentence,
    Voice,
    Waveform,
    amplitude,
    female_voice,
    frame_rms,
    male_voice,
    speech_frames,
    words_of,
)

MARGIN = 480  # 30 ms at 16 kHz, kept and faded on both sides of the speech of a sentence
SPEECH_LEVEL_DBFS = -23.0  # RMS over speech frames, the same for every turn
NOISE_LEVEL_DBFS = -65.0  # RMS of the white noise under everything
EDGE_S = 0.4  # before the first turn and after the last
SENTENCE_GAP_S = 0.25
TURN_GAPS_S = (0.4, 0.35, 0.5, 0.3, 0.45)  # in turn, from the start again when used up

DIALOGUE = (
    ("A", "Good morning, this is the service desk.", "How can I help you?"),
    ("B", "Hi, my van has stopped near the bridge, and the engine will not start."),
    ("A", "All right.", "Are you safe, and is anyone hurt?"),
    ("B", "Everyone is fine.", "We are standing beside the road, behind the van."),
    ("A", "Good.", "A tow truck will be with you in about 20 minutes."),
    ("B", "Thank you.", "Should I leave my lights on?"),
    ("A", "Yes, please, so that other drivers can see you."),
    ("B", "Okay.", "It is cold outside, but we have warm coats and plenty of water."),
    ("A", "Great.", "I will call you back when the driver is close."),
    ("B", "That sounds good.", "Thanks for your help."),
)


@dataclass(frozen=True)
class Word:
    word: str
    start: float
    speaker: str


@dataclass(frozen=True)
class Turn:
    speaker: str
    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Placed:
    """A sentence in the recording: its speech starts at sample `at` and is heard times `gain`."""

    speaker: str
    turn: int
    sentence: Sentence
    gain: float
    at: int

    @property
    def until(self) -> int:
        return self.at + self.sentence.end - self.sentence.start


def common_level_gain(sentences: Sequence[Sentence]) -> float:
    frames = np.concatenate([frame_rms(item.waveform)[speech_frames(item.waveform)] for item in sentences])
    return amplitude(SPEECH_LEVEL_DBFS) / float(np.sqrt(np.mean(np.square(frames))))


def placed_dialogue(voices: dict[str, Voice]) -> Iterator[Placed]:
    """Every sentence in order, with the pauses between them."""
    at = round(EDGE_S * SAMPLE_RATE)
    turn_gaps = itertools.cycle(TURN_GAPS_S)
    for turn, (speaker, *texts) in enumerate(DIALOGUE):
        sentences = [voices[speaker](text) for text in texts]
        gain = common_level_gain(sentences)
        gaps = [SENTENCE_GAP_S] * (len(sentences) - 1) + [next(turn_gaps)]
        for item, gap in zip(sentences, gaps, strict=True):
            yield (placed := Placed(speaker, turn, item, gain, at))
            at = placed.until + round(gap * SAMPLE_RATE)


def faded(item: Sentence) -> tuple[Waveform, int]:
    """The speech with its margins faded, and how many samples of margin come before it."""
    before = min(MARGIN, item.start)
    piece = item.waveform[item.start - before : item.end + MARGIN].copy()
    after = len(piece) - before - (item.end - item.start)
    piece[:before] *= np.linspace(0.0, 1.0, before)
    piece[len(piece) - after :] *= np.linspace(1.0, 0.0, after)
    return piece, before


def mixed(dialogue: Sequence[Placed]) -> Waveform:
    """The whole recording, noise floor included."""
    length = dialogue[-1].until + round(EDGE_S * SAMPLE_RATE)
    waveform = np.random.default_rng(SEED).normal(0.0, amplitude(NOISE_LEVEL_DBFS), length)
    for item in dialogue:
        piece, before = faded(item.sentence)
        waveform[item.at - before : item.at - before + len(piece)] += item.gain * piece
    return waveform


def seconds(sample: int) -> float:
    return round(sample / SAMPLE_RATE, 3)


def words(dialogue: Sequence[Placed]) -> Iterator[Word]:
    for item in dialogue:
        for word, onset in zip(words_of(item.sentence.text), item.sentence.onsets, strict=True):
            yield Word(word, seconds(item.at + onset - item.sentence.start), item.speaker)


def turns(dialogue: Sequence[Placed]) -> Iterator[Turn]:
    for _, group in itertools.groupby(dialogue, lambda item: item.turn):
        parts = list(group)
        text = " ".join(item.sentence.text for item in parts)
        yield Turn(parts[0].speaker, seconds(parts[0].at), seconds(parts[-1].until), text)


def reference(dialogue: Sequence[Placed], length: int) -> dict[str, object]:
    """The contents of dialogue.json; length in samples."""
    spoken = list(turns(dialogue))
    return {
        "text": " ".join(turn.text for turn in spoken),
        "turns": [asdict(turn) for turn in spoken],
        "words": [asdict(word) for word in words(dialogue)],
        "sample_rate": SAMPLE_RATE,
        "duration_s": seconds(length),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Make dialogue.flac and dialogue.json.")
    parser.add_argument("output", type=Path, help="the folder they go to")
    folder: Path = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    dialogue = list(placed_dialogue({"A": female_voice(), "B": male_voice()}))
    waveform = mixed(dialogue)
    soundfile.write(folder / "dialogue.flac", waveform, SAMPLE_RATE, subtype="PCM_16")
    text = json.dumps(reference(dialogue, len(waveform)), indent=1)
    (folder / "dialogue.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
