"""pyannote checkpoints from local files: without lightning's and pyannote's printing, and without running what a pickle may name."""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

from torch import nn

from core.errors import ModelMissing
from worker.engine.pyannote_parts import Model, PyanNet, WeSpeakerResNet34
from worker.engine.weights import read_weights

# torch.load(weights_only=True) refuses pyannote's description of its task, a plain value; torch 2.0 cannot be told to allow it.
ALLOWED = {
    ("__builtin__", "dict"),
    ("__builtin__", "list"),
    ("__builtin__", "long"),
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("pyannote.audio.core.task", "Problem"),
    ("pyannote.audio.core.task", "Resolution"),
    ("pyannote.audio.core.task", "Specifications"),
    ("torch", "FloatStorage"),
    ("torch", "LongStorage"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch.torch_version", "TorchVersion"),
}
# What WhisperX's voice activity model keeps of its training and nobody reads: named, never called.
INERT = {
    ("omegaconf.base", "ContainerMetadata"),
    ("omegaconf.base", "Metadata"),
    ("omegaconf.listconfig", "ListConfig"),
    ("omegaconf.nodes", "AnyNode"),
    ("pyannote.audio.core.model", "Introspection"),
    ("typing", "Any"),
}
ARCHITECTURES = {one.__name__: one for one in (PyanNet, WeSpeakerResNet34)}


class _Inert:
    """Takes the place of a class whose instances are thrown away."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in INERT:
            return _Inert
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint of pyannote needs")
        return super().find_class(module, name)


def _load(file: BinaryIO, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


_RESTRICTED = SimpleNamespace(__name__=__name__, Unpickler=_Unpickler, load=_load)  # what torch.load takes for the pickle module


def load_pyannote(path: Path) -> Model:
    """The model that a checkpoint file, or pytorch_model.bin in a folder, holds; raises ModelMissing."""
    file = path / "pytorch_model.bin" if path.is_dir() else path
    try:
        return _built(read_weights(file, unpickler=_RESTRICTED))
    except (KeyError, RuntimeError, TypeError) as error:
        raise ModelMissing(f"{file} is not a pyannote model that can be used here ({error}): fetch it again") from error


def load_weights(network: nn.Module, checkpoint: Path) -> None:
    """Fills the network from a bare state dict; raises ModelMissing."""
    try:
        network.load_state_dict(read_weights(checkpoint))
    except (RuntimeError, TypeError) as error:
        raise ModelMissing(f"{checkpoint} does not hold the weights of {type(network).__name__} ({error}): fetch it again") from error


def _built(content: dict[str, Any]) -> Model:
    model = ARCHITECTURES[content["pyannote.audio"]["architecture"]["class"]](**content.get("hyper_parameters", {}))
    model.specifications = content["pyannote.audio"]["specifications"]
    model.setup()  # adds the layers that depend on the specifications
    missing, _ = model.load_state_dict(content["state_dict"], strict=False)  # what is over is of training: losses, metrics
    if missing:
        raise KeyError(*missing)
    return model.eval()
