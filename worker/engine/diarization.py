"""Who speaks when: pyannote's SpeakerDiarization, with one pass of WeSpeaker's network per window of ten seconds."""

import math
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pyannote.core import Annotation, SlidingWindowFeature
from torch import Tensor
from torch.nn import functional

from worker.engine.campplus import MIN_SAMPLES, CampPlus
from worker.engine.checkpoints import load_pyannote
from worker.engine.halving import Halving
from worker.engine.linkage import MOST_LINKED, waiting
from worker.engine.pyannote_parts import Model, SpeakerDiarization
from worker.engine.results import SAMPLE_RATE, SpeakerTurn, Waveform
from worker.engine.tally import Tally

Floats = NDArray[np.float32]
Embed = Callable[[Tensor, Tensor], Tensor]
Hook = Callable[..., None]

Kind = Literal["campplus", "wespeaker"]

# CAM++'s was swept from 0.5 to 1.0, no collar, overlap scored: pyannote's telephone sample (two people, 30 s) has
# 35.0 % at 0.5, 12.2 % at 0.6, 5.1 % from 0.65 to 0.9 and 43.7 % at 1.0; LibriVox' reader alone (26 s) is one speaker
# at all of them (7.1 %).
THRESHOLDS = {"wespeaker": 0.7045654963945799, "campplus": 0.75}
MIN_DURATION_S = 0.25  # of a recording in which it is worth asking
SHARES = {"segmentation": (0.0, 0.25), "embeddings": (0.25, 0.95), "clustering": (0.95, 1.0)}  # of the progress bar: an estimate


class Diarizer:
    """Safe to call from several threads: a call keeps its state to itself, the models are only read."""

    def __init__(self, pipeline: "OnePassDiarization") -> None:
        self._pipeline = pipeline

    @property
    def tallies(self) -> tuple[Tally, ...]:
        return self._pipeline.tallies

    @classmethod
    def load(cls, segmentation: Path, embedding: Path, kind: Kind, device: str, batch_size: int = 32) -> Self:
        """From checkpoint files, or folders that hold a pytorch_model.bin; batch_size counts windows of 10 s.

        Raises ModelMissing.
        """
        pipeline = OnePassDiarization(load_pyannote(segmentation), *_embedding(kind, embedding), batch_size)
        pipeline.instantiate(parameters(kind))
        return cls(pipeline.to(torch.device(device)))

    def turns(
        self,
        waveform: Waveform,
        *,
        num_speakers: int | None = None,
        min_speakers: int | None = None,
        max_speakers: int | None = None,
        on_progress: Callable[[float], None],
        check: Callable[[], None],
    ) -> tuple[SpeakerTurn, ...]:
        """By start; speakers who talk at once have overlapping turns. There may be fewer speakers than asked for.

        on_progress gets 0 to 1; check is called before each batch and may raise to stop. Raises OutOfMemory.
        """
        if len(waveform) < MIN_DURATION_S * SAMPLE_RATE:
            return ()
        file = {"waveform": torch.from_numpy(waveform)[None], "sample_rate": SAMPLE_RATE, "uri": "waveform"}
        bounds = {"num_speakers": num_speakers, "min_speakers": min_speakers, "max_speakers": max_speakers}
        waiting.set(partial(_report, on_progress, check, "clustering", total=1, completed=0))
        annotation = self._pipeline.apply(file, hook=partial(_report, on_progress, check), **bounds)
        on_progress(1.0)
        return _turns(annotation, len(waveform) / SAMPLE_RATE)


class OnePassDiarization(SpeakerDiarization):  # type: ignore[misc]  # pyannote is untyped
    """pyannote 3.1.1 embeds a window once for each of its three speakers; here they share one pass.

    To be called by apply(): pyannote's __call__, and that of its Inference, turn TF32 off for the whole process.
    """

    def __init__(self, segmentation: Model, embedding: Model, embed: Embed, batch_size: int) -> None:
        super().__init__(segmentation=segmentation, embedding=embedding, embedding_exclude_overlap=True)
        self.clustering.max_num_embeddings = MOST_LINKED
        self.segmentation_batch_size = self.embedding_batch_size = batch_size
        self._embed = embed
        # Jobs take turns batch by batch, on a GPU: its memory has room for one batch (worker/engine/budget.py).
        self._turn = threading.Lock()
        self._segments = Halving("segmentation", batch_size, release_memory=torch.cuda.empty_cache)
        self._embeds = Halving("embeddings", batch_size, release_memory=torch.cuda.empty_cache)
        self._segmentation.infer = partial(self._infer, self._segmentation.infer)
        # pyannote finds it by trials: once, here
        self._min_samples = MIN_SAMPLES if isinstance(embedding, CampPlus) else self._embedding.min_num_samples

    @property
    def tallies(self) -> tuple[Tally, ...]:
        return self._segments.tally, self._embeds.tally

    def get_segmentations(self, file: dict[str, Any], hook: Hook | None = None) -> SlidingWindowFeature:
        return self._segmentation.slide(file["waveform"], SAMPLE_RATE, hook and partial(hook, "segmentation", None))

    def get_embeddings(
        self, file: dict[str, Any], binary_segmentations: SlidingWindowFeature, exclude_overlap: bool = False, hook: Hook | None = None
    ) -> Floats:
        """Shape = (windows, speakers, dimension); NaN for who is silent in a window."""
        masks = self._masks(binary_segmentations, exclude_overlap)
        heard = np.flatnonzero(masks.any(axis=(1, 2)))
        parts = []
        for first in range(0, len(heard), self.embedding_batch_size):
            if hook:
                hook("embeddings", None, total=len(heard), completed=first)
            batch = heard[first : first + self.embedding_batch_size]
            waveforms = self._windows(file["waveform"], binary_segmentations, batch)
            parts.append(self._embed_batch(waveforms, torch.from_numpy(masks[batch])))
        found = np.concatenate(parts)
        embeddings = np.full((*masks.shape[:2], found.shape[-1]), np.nan, dtype=np.float32)
        embeddings[heard] = found
        embeddings[~masks.any(axis=2)] = np.nan
        # When nobody speaks long enough to be told from others, all are one.
        return np.ones_like(embeddings) if np.isnan(embeddings).all() else embeddings

    def _infer(self, infer: Callable[[Tensor], Floats], windows: Tensor) -> Floats:
        with self._my_turn():
            return np.concatenate(self._segments.run(len(windows), lambda part: infer(windows[part])))

    @torch.inference_mode()
    def _embed_batch(self, waveforms: Tensor, masks: Tensor) -> Floats:
        device = self._embedding.device

        def embed(part: slice) -> Floats:
            return np.asarray(self._embed(waveforms[part].to(device), masks[part].to(device)).cpu().numpy())

        with self._my_turn():
            return np.concatenate(self._embeds.run(len(waveforms), embed))

    def _my_turn(self) -> AbstractContextManager[object]:
        return self._turn if self._embedding.device.type == "cuda" else nullcontext()

    def _masks(self, segmentations: SlidingWindowFeature, exclude_overlap: bool) -> Floats:
        """Shape = (windows, speakers, frames): where each speaks alone, or at all where that is too short to embed."""
        speaks: Floats = np.nan_to_num(segmentations.data, nan=0.0).astype(np.float32).transpose(0, 2, 1)
        if not exclude_overlap:
            return speaks
        alone = speaks * (speaks.sum(axis=1, keepdims=True) < 2)
        samples = segmentations.sliding_window.duration * SAMPLE_RATE
        min_frames = math.ceil(speaks.shape[2] * self._min_samples / samples)
        return np.asarray(np.where(alone.sum(axis=2, keepdims=True) > min_frames, alone, speaks))

    def _windows(self, waveform: Tensor, segmentations: SlidingWindowFeature, indices: NDArray[np.intp]) -> Tensor:
        """Shape = (windows, 1, samples), the last one filled up with zeros."""
        windows = segmentations.sliding_window
        samples = round(windows.duration * SAMPLE_RATE)
        starts = [math.floor(windows[int(index)].start * SAMPLE_RATE) for index in indices]
        cuts = [waveform[:, start : start + samples] for start in starts]
        return torch.stack([functional.pad(cut, (0, samples - cut.shape[1])) for cut in cuts])


def parameters(kind: Kind) -> dict[str, dict[str, Any]]:
    """Of the clustering: those of pyannote/speaker-diarization-3.1's config.yaml, but for CAM++'s threshold."""
    clustering = {"method": "centroid", "min_cluster_size": 12, "threshold": THRESHOLDS[kind]}
    return {"segmentation": {"min_duration_off": 0.0}, "clustering": clustering}


def _embedding(kind: Kind, path: Path) -> tuple[Model, Embed]:
    if kind == "campplus":
        model = CampPlus.load(path)
        return model, model
    model = load_pyannote(path)
    return model, partial(wespeaker_embeddings, model)


def wespeaker_embeddings(model: Model, waveforms: Tensor, masks: Tensor) -> Tensor:
    """(items, 1, samples) and (items, speakers, frames) to (items, speakers, 256)."""
    features = model.compute_fbank(waveforms)
    frames = features.shape[1]
    for _ in range(3):  # ResNet's three strides of 2
        frames = (frames + 1) // 2
    # StatsPool would do the same, with a warning at each call.
    weights = functional.interpolate(masks, size=frames, mode="nearest")
    embeddings: Tensor = model.resnet(features, weights=weights)[1]
    return embeddings


def _report(on_progress: Callable[[float], None], check: Callable[[], None], step: str, *_: object, **counts: Any) -> None:
    check()
    if step in SHARES and counts.get("total"):
        begin, end = SHARES[step]
        on_progress(begin + (end - begin) * min(1.0, counts["completed"] / counts["total"]))


def _turns(annotation: Annotation, duration_s: float) -> tuple[SpeakerTurn, ...]:
    tracks = [(segment.start, min(segment.end, duration_s), label) for segment, _, label in annotation.itertracks(yield_label=True)]
    tracks = sorted(track for track in tracks if track[0] < track[1])
    names = {label: f"SPEAKER_{index:02d}" for index, label in enumerate(dict.fromkeys(label for *_, label in tracks))}
    return tuple(SpeakerTurn(start, end, names[label]) for start, end, label in tracks)
