"""Whisper on CTranslate2, a batch of windows at a time."""

import json
import zlib
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
import tokenizers
from faster_whisper.tokenizer import _LANGUAGE_CODES
from numpy.typing import NDArray

from core.errors import ModelMissing
from worker.engine.features import Features

MAX_LENGTH = 448  # tokens, prompt included: Whisper's context
MEDIAN_FILTER_WIDTH = 7  # of the attention over time, as openai/whisper
REPETITION_LIMIT = 2.4  # compression ratio above which openai/whisper takes a text for a loop
LADDER = (0.2, 0.4, 0.6, 0.8, 1.0)  # openai/whisper's temperatures after 0
SAMPLES_PER_TEMPERATURE = 5  # its best_of


@dataclass(frozen=True)
class Passage:
    """One window on its way through the decoder."""

    features: Features
    encoded: "Encoded | None"  # where language detection has encoded it already
    frames: int  # of the features that are not padding
    prompt: tuple[int, ...]
    start: tuple[int, ...]  # the part of the prompt from <|startoftranscript|> without <|notimestamps|>
    beam_size: int
    timed: bool
    resample_loops: bool


@dataclass(frozen=True)
class Heard:
    tokens: tuple[int, ...]  # text only
    text: str
    avg_logprob: float
    no_speech_prob: float
    temperature: float  # 0: beam search
    attention: "Attention | None" = None

    @property
    def compression_ratio(self) -> float:
        data = self.text.strip().encode()
        return len(data) / len(zlib.compress(data))

    @property
    def loops(self) -> bool:
        return self.compression_ratio > REPETITION_LIMIT


@dataclass(frozen=True)
class Attention:
    """Where in the window each token was heard."""

    path: tuple[tuple[int, int], ...]  # (token, frame of 20 ms), dynamic time warping; the token after the last is the end
    probabilities: tuple[float, ...]  # one per token
    heads: "Heads"


@dataclass(frozen=True)
class Encoding:
    encoded: "Encoded"
    languages: dict[str, float]  # probability by code


Heads = tuple[tuple[int, ...], ...]  # (layer, head) of the decoder's heads that the path was found in
Encoded = NDArray[Any]  # shape = (1500, d_model), float32 or float16


class Whisper:
    """A CTranslate2 conversion of Whisper in a local folder. Thread-safe: it holds nothing but the model."""

    def __init__(self, folder: Path, *, device: str, compute_type: str, cpu_threads: int = 0) -> None:
        missing = [name for name in ("model.bin", "config.json", "tokenizer.json") if not (folder / name).is_file()]
        if missing:
            raise ModelMissing(f"{folder} is not a CTranslate2 Whisper model: {', '.join(missing)} missing")
        kind, _, index = device.partition(":")
        self._model = ctranslate2.models.Whisper(
            str(folder), device=kind, device_index=int(index or 0), compute_type=compute_type, intra_threads=cpu_threads
        )
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.is_multilingual: bool = self._model.is_multilingual
        self.n_mels: int = self._model.n_mels
        self._alignment_heads = _alignment_heads(folder)
        self._end_of_text: int = self.tokenizer.token_to_id("<|endoftext|>")

    def knows(self, language: str) -> bool:
        """Of a multilingual model; large-v3 has a language more than the others."""
        return language in _LANGUAGE_CODES and self.tokenizer.token_to_id(f"<|{language}|>") is not None

    def detect(self, batch: list[Features]) -> list[Encoding]:
        encoded = self._model.encode(ctranslate2.StorageView.from_array(np.stack(batch)), to_cpu=True)
        languages = self._model.detect_language(encoded)
        rows = _to_array(encoded)
        return [Encoding(row.copy(), _by_code(ranked)) for row, ranked in zip(rows, languages, strict=True)]

    def decode(self, batch: list[Passage]) -> list[Heard]:
        """The passages' `shape_of_prompt` must be equal."""
        encoded = self._encode(batch)
        heard = self._search(encoded, batch)
        self._resample(encoded, batch, heard)
        self._attend(encoded, batch, heard)
        return heard

    def _encode(self, batch: list[Passage]) -> Any:
        known = [passage.encoded for passage in batch if passage.encoded is not None]
        if known:
            return ctranslate2.StorageView.from_array(np.stack(known))
        return self._model.encode(ctranslate2.StorageView.from_array(np.stack([passage.features for passage in batch])))

    def _search(self, encoded: Any, batch: list[Passage]) -> list[Heard]:
        return self._generate(encoded, batch, temperature=0.0, beam_size=batch[0].beam_size, patience=1)

    def _resample(self, encoded: Any, batch: list[Passage], heard: list[Heard]) -> None:
        """Beam search that ran into a loop is tried again by sampling, up the ladder of temperatures, and the best is kept."""
        tries = {i: [h] for i, (p, h) in enumerate(zip(batch, heard, strict=True)) if p.resample_loops and h.loops}
        for temperature in LADDER:
            looping = [i for i, attempts in tries.items() if attempts[-1].loops]
            if not looping:
                break
            sampled = self._sample(_pick(encoded, looping), [batch[i] for i in looping], temperature)
            for i, attempt in zip(looping, sampled, strict=True):
                tries[i].append(attempt)
        for i, attempts in tries.items():
            heard[i] = max(attempts, key=lambda attempt: (not attempt.loops, attempt.avg_logprob))

    def _sample(self, encoded: Any, batch: list[Passage], temperature: float) -> list[Heard]:
        return self._generate(
            encoded,
            batch,
            temperature=temperature,
            beam_size=1,
            num_hypotheses=SAMPLES_PER_TEMPERATURE,
            sampling_topk=0,
            sampling_temperature=temperature,
        )

    def _generate(self, encoded: Any, batch: list[Passage], *, temperature: float, **search: Any) -> list[Heard]:
        results = self._model.generate(
            encoded,
            [list(passage.prompt) for passage in batch],
            length_penalty=1,
            max_length=MAX_LENGTH,
            suppress_blank=True,
            suppress_tokens=[-1],
            return_scores=True,
            return_no_speech_prob=True,
            **search,
        )
        return [self._heard(result, temperature) for result in results]

    def _heard(self, result: Any, temperature: float) -> Heard:
        sequence = result.sequences_ids[0]
        tokens = tuple(token for token in sequence if token < self._end_of_text)
        return Heard(
            tokens=tokens,
            text=self.tokenizer.decode(list(tokens)),
            avg_logprob=result.scores[0] * len(sequence) / (len(sequence) + 1),  # the score leaves the end of text out
            no_speech_prob=result.no_speech_prob,
            temperature=temperature,
        )

    def _attend(self, encoded: Any, batch: list[Passage], heard: list[Heard]) -> None:
        """CTranslate2 takes one start sequence per call: a call per language and task in the batch."""
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, passage in enumerate(batch):
            if passage.timed and heard[i].tokens:
                groups[passage.start].append(i)
        for start, members in groups.items():
            rows = encoded if len(members) == len(batch) else _pick(encoded, members)
            attention = self._align(rows, start, [heard[i].tokens for i in members], [batch[i].frames for i in members])
            for i, found in zip(members, attention, strict=True):
                heard[i] = replace(heard[i], attention=found)

    def _align(self, encoded: Any, start: tuple[int, ...], tokens: list[tuple[int, ...]], frames: list[int]) -> list[Attention]:
        results = self._model.align(encoded, list(start), [list(t) for t in tokens], frames, median_filter_width=MEDIAN_FILTER_WIDTH)
        return [Attention(tuple(result.alignments), tuple(result.text_token_probs), self._alignment_heads) for result in results]


def _alignment_heads(folder: Path) -> Heads:
    """In older conversions there are none: CTranslate2 then takes the heads of the upper half of the layers."""
    return tuple(tuple(head) for head in json.loads((folder / "config.json").read_text()).get("alignment_heads", ()))


def shape_of_prompt(passage: Passage) -> Hashable:
    """What must be equal within a batch: CTranslate2 wants as many tokens before and after <|startoftranscript|>."""
    return passage.encoded is None, len(passage.prompt), len(passage.start), passage.beam_size


def _pick(encoded: Any, rows: Sequence[int]) -> Any:
    return ctranslate2.StorageView.from_array(_to_array(encoded.to_device(ctranslate2.Device.cpu))[list(rows)])


def _to_array(encoded: Any) -> NDArray[Any]:
    """On the CPU. NumPy has no bfloat16."""
    if encoded.dtype == ctranslate2.DataType.bfloat16:
        encoded = encoded.to(ctranslate2.DataType.float32)
    return np.asarray(encoded)


def _by_code(ranked: list[tuple[str, float]]) -> dict[str, float]:
    return {token[2:-2]: probability for token, probability in ranked}  # "<|en|>"
