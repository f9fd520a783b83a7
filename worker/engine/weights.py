"""Tensors out of files that others made, without running anything that is in them."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import serialization

from core.errors import ModelMissing

UNREADABLE = (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError, AttributeError)


def read_weights(path: Path, *, unpickler: Any = None) -> Any:
    """What torch saved there; with a restricted `unpickler` module more than tensors. Raises `ModelMissing`."""
    options = {"pickle_module": unpickler} if unpickler else {"weights_only": True}
    try:
        _refuse_programs(path)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="TypedStorage is deprecated")  # torch 2.0 warns of its own unpickler
            return torch.load(path, map_location="cpu", **options)
    except UNREADABLE as error:
        raise ModelMissing(f"{path} does not hold weights that can be used here ({error}): fetch it again") from error


def _refuse_programs(path: Path) -> None:
    """torch.load hands a TorchScript archive to torch.jit, which runs it, whatever `weights_only` and `pickle_module` say."""
    with path.open("rb") as file:
        if not serialization._is_zipfile(file):
            return
        with serialization._open_zipfile_reader(file) as archive:
            if serialization._is_torchscript_zip(archive):  # type: ignore[no-untyped-call]
                raise pickle.UnpicklingError("it is a program, a TorchScript archive")
