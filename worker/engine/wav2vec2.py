"""wav2vec2 models of two makers behind one face: waveforms in, log-probabilities of given characters out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torchaudio
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, Wav2Vec2Config, Wav2Vec2ForCTC

from core.errors import ModelMissing
from worker.engine.halving import Halving
from worker.engine.results import Waveform
from worker.engine.viterbi import Emission
from worker.engine.weights import read_weights

Convolve = Callable[[Tensor], Tensor]  # waveform of shape (1, samples) -> (1, frames, features)
Transform = Callable[[Tensor, Tensor], Tensor]  # (items, frames, features) and frame counts -> logits (items, frames, entries)
MOST_WAVEFORMS = 10_000  # in a batch: its length in samples is what alignment bounds, until memory runs out


@dataclass(frozen=True)
class Wav2Vec2:
    """Its convolutions see one waveform at a time and only the transformer a padded batch: wav2vec2-base normalizes its
    first layer over time, so that padding there would change every frame, while a masked transformer does not see it.
    """

    dictionary: dict[str, int]  # lower-case characters
    device: torch.device
    convolve: Convolve
    transform: Transform
    batches: Halving = field(default_factory=lambda: Halving("alignment", MOST_WAVEFORMS, release_memory=torch.cuda.empty_cache))

    @classmethod
    def from_folder(cls, folder: Path, device: str) -> Self:
        """From a local Hugging Face folder; raises ModelMissing."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model = _hugging_face_model(folder)
        except (OSError, ValueError) as error:
            raise ModelMissing(f"{folder} holds no complete wav2vec2 model: fetch it again") from error
        if model.config.add_adapter:
            raise ModelMissing(f"the wav2vec2 model in {folder} has an adapter, which alignment cannot use: choose another")
        model = model.to(device).eval()
        return cls(_lowered(tokenizer.get_vocab()), torch.device(device), *_hugging_face_stages(model))

    @classmethod
    def from_bundle(cls, name: str, folder: Path, device: str) -> Self:
        """From the checkpoint file of one of torchaudio.pipelines' wav2vec2 bundles; raises ModelMissing."""
        bundle = getattr(torchaudio.pipelines, name, None)
        if not isinstance(bundle, torchaudio.pipelines.Wav2Vec2ASRBundle):
            raise ModelMissing(f"torchaudio has no speech recognition bundle {name}: name another alignment model")
        model = _torchaudio_model(bundle, folder / Path(bundle._path).name).to(device).eval()
        dictionary = _lowered({label: index for index, label in enumerate(bundle.get_labels())})
        return cls(dictionary, torch.device(device), *_torchaudio_stages(model, normalize=bundle._normalize_waveform))

    @property
    def blank(self) -> int:
        """whisperx's rule: the padding entry under either of its two names, else the first."""
        return self.dictionary.get("<pad>", self.dictionary.get("[pad]", 0))

    def emissions(self, waveforms: Sequence[Waveform], tokens: Sequence[NDArray[np.intp]]) -> list[Emission]:
        """One per waveform, each with its text's entries in the dictionary. Raises OutOfMemory when one waveform alone is too much."""
        parts = self.batches.run(len(waveforms), lambda part: self._emissions(waveforms[part], tokens[part]))
        return [emission for part in parts for emission in part]

    @torch.inference_mode()
    def _emissions(self, waveforms: Sequence[Waveform], tokens: Sequence[NDArray[np.intp]]) -> list[Emission]:
        features = [self.convolve(torch.from_numpy(one).to(self.device)[None])[0] for one in waveforms]
        frames = torch.tensor([len(one) for one in features], device=self.device)
        logits = self.transform(pad_sequence(features, batch_first=True), frames)
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        return [self._emission(one[:count], chosen) for one, count, chosen in zip(log_probs, frames, tokens, strict=True)]

    def _emission(self, log_probs: Tensor, tokens: NDArray[np.intp]) -> Emission:
        # Picked out on the device: a Chinese dictionary has thousands of entries, a text a hundred.
        entries = torch.from_numpy(np.append(tokens, (self.blank, 0))).to(self.device)
        chosen = log_probs[:, entries].cpu().numpy()
        return Emission(chosen[:, :-2], chosen[:, -2], chosen[:, -1])


def _lowered(vocabulary: dict[str, int]) -> dict[str, int]:
    return {label.lower(): index for label, index in vocabulary.items()}


def _hugging_face_model(folder: Path) -> Any:
    if (folder / "model.safetensors").is_file():
        return Wav2Vec2ForCTC.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    config = Wav2Vec2Config.from_pretrained(folder, local_files_only=True)
    return Wav2Vec2ForCTC.from_pretrained(None, config=config, state_dict=read_weights(folder / "pytorch_model.bin"))


def _torchaudio_model(bundle: Any, checkpoint: Path) -> Any:
    """As bundle.get_model, which unpickles whatever the file names."""
    weights = read_weights(checkpoint)
    model = torchaudio.models.wav2vec2_model(**bundle._params)
    try:
        for name in ("aux.weight", "aux.bias"):  # without the entries of fairseq's dictionary that mean nothing here
            kept = [index for index in range(len(weights[name])) if index not in bundle._remove_aux_axis]
            weights[name] = weights[name][kept]
        model.load_state_dict(weights)
    except (KeyError, RuntimeError, TypeError) as error:
        raise ModelMissing(f"{checkpoint} does not hold the weights that torchaudio expects ({error}): fetch it again") from error
    return model


def _hugging_face_stages(model: Any) -> tuple[Convolve, Transform]:
    wav2vec2 = model.wav2vec2

    def convolve(waveform: Tensor) -> Tensor:
        features: Tensor = wav2vec2.feature_extractor(waveform).transpose(1, 2)
        return features

    def transform(features: Tensor, frames: Tensor) -> Tensor:
        mask = torch.arange(features.shape[1], device=features.device) < frames[:, None]
        projected, _ = wav2vec2.feature_projection(features)
        logits: Tensor = model.lm_head(wav2vec2.encoder(projected, attention_mask=mask).last_hidden_state)
        return logits

    return convolve, transform


def _torchaudio_stages(model: Any, *, normalize: bool) -> tuple[Convolve, Transform]:
    def convolve(waveform: Tensor) -> Tensor:
        heard = torch.nn.functional.layer_norm(waveform, waveform.shape) if normalize else waveform
        features: Tensor = model.feature_extractor(heard, None)[0]
        return features

    def transform(features: Tensor, frames: Tensor) -> Tensor:
        logits: Tensor = model.aux(model.encoder(features, frames))
        return logits

    return convolve, transform
