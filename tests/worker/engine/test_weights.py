"""Model files that would run something: refused by every loader, and it does not run."""

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.errors import ModelMissing
from tests.worker.engine.wav2vec2_models import save_model

pytestmark = pytest.mark.models


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mknod, (str(self._path),)


def zipped_pickle(path: Path, mark: Path) -> None:
    import torch

    torch.save({"state_dict": Touch(mark)}, path, pickle_module=pickle)


def old_pickle(path: Path, mark: Path) -> None:
    import torch

    torch.save(Touch(mark), path, pickle_module=pickle, _use_new_zipfile_serialization=False)


def torchscript(path: Path, mark: Path) -> None:
    """A program that maps a file, which makes it, as soon as its state is set."""
    import torch

    class Program(torch.nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name, self.mapped = name, torch.zeros(1)

        @torch.jit.export
        def __getstate__(self) -> tuple[str, bool]:
            return self.name, self.training

        @torch.jit.export
        def __setstate__(self, state: tuple[str, bool]) -> None:
            self.name, self.training = state
            self.mapped = torch.from_file(self.name, shared=True, size=1)

    torch.jit.script(Program(str(mark))).save(str(path))


def load_pyannote(file: Path) -> None:
    from worker.engine.checkpoints import load_pyannote

    load_pyannote(file)


def load_campplus(file: Path) -> None:
    from worker.engine.campplus import CampPlus

    CampPlus.load(file)


def load_hugging_face(file: Path) -> None:
    from worker.engine.wav2vec2 import Wav2Vec2

    folder = save_model(file.parent / "folder", "ab", "group", stable=False)
    (folder / "model.safetensors").unlink()
    file.rename(folder / "pytorch_model.bin")
    Wav2Vec2.from_folder(folder, "cpu")


def load_torchaudio(file: Path) -> None:
    import torchaudio

    from worker.engine.wav2vec2 import Wav2Vec2

    name = "WAV2VEC2_ASR_BASE_960H"
    file.rename(file.parent / getattr(torchaudio.pipelines, name)._path)
    Wav2Vec2.from_bundle(name, file.parent, "cpu")


@pytest.mark.parametrize("make", [zipped_pickle, old_pickle, torchscript])
@pytest.mark.parametrize("load", [load_pyannote, load_campplus, load_hugging_face, load_torchaudio])
@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file:UserWarning")
def test_a_model_file_that_would_run_something_is_refused(
    tmp_path: Path, make: Callable[[Path, Path], None], load: Callable[[Path], None]
) -> None:
    import torch

    path, mark = tmp_path / "model.bin", tmp_path / "mark"
    make(path, mark)
    torch.load(path)
    assert mark.exists()  # or it could not fail
    mark.unlink()
    with pytest.raises(ModelMissing, match="fetch it again"):
        load(path)
    assert not mark.exists()


def test_old_weights_of_the_hub_are_those_of_the_new_kind(tmp_path: Path) -> None:
    import torch
    from transformers import Wav2Vec2ForCTC

    from worker.engine.wav2vec2 import _hugging_face_model

    folder = save_model(tmp_path / "folder", "abc", "layer", stable=True)
    new = _hugging_face_model(folder)
    Wav2Vec2ForCTC.from_pretrained(folder).save_pretrained(folder, safe_serialization=False)
    (folder / "model.safetensors").unlink()
    old = _hugging_face_model(folder)
    assert all(torch.equal(one, other) for one, other in zip(new.state_dict().values(), old.state_dict().values(), strict=True))


def test_a_bundle_is_the_one_that_torchaudio_builds(tmp_path: Path) -> None:
    import torch
    import torchaudio

    from worker.engine.wav2vec2 import _torchaudio_model

    full = torchaudio.pipelines.WAV2VEC2_ASR_BASE_960H
    sizes = {"encoder_embed_dim": 32, "encoder_num_layers": 1, "encoder_num_heads": 4, "encoder_ff_interm_features": 32}
    small = replace(full, _path="small.pth", _params={**full._params, **sizes})
    entries = small._params["aux_num_out"] + len(small._remove_aux_axis)
    saved = torchaudio.models.wav2vec2_model(**{**small._params, "aux_num_out": entries})
    torch.save(saved.state_dict(), tmp_path / "small.pth")
    theirs, ours = small.get_model(dl_kwargs={"model_dir": str(tmp_path)}), _torchaudio_model(small, tmp_path / "small.pth")
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(one, other) for one, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
