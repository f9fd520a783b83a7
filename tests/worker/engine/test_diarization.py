import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from core.errors import JobCancelled, ModelMissing
from worker.engine.results import SAMPLE_RATE, SpeakerTurn, Waveform

pytestmark = pytest.mark.models

if TYPE_CHECKING:
    from worker.engine.diarization import Diarizer


SAMPLES = Path(__file__).parents[3] / "samples"


@pytest.fixture(scope="module")
def dialogue() -> Waveform:
    import soundfile

    waveform, sample_rate = soundfile.read(SAMPLES / "dialogue.flac", dtype="float32")
    assert sample_rate == SAMPLE_RATE
    return np.asarray(waveform, dtype=np.float32)


@pytest.fixture(scope="module")
def reference() -> list[SpeakerTurn]:
    turns = json.loads((SAMPLES / "dialogue.json").read_text())["turns"]
    return [SpeakerTurn(turn["start"], turn["end"], turn["speaker"]) for turn in turns]


@pytest.fixture(scope="module")
def diarizer(model_dir: Path) -> "Diarizer":
    from worker.engine.diarization import Diarizer

    embedding = model_dir / "campplus-zh-en" / "campplus_cn_en_common.pt"
    return Diarizer.load(model_dir / "pyannote-segmentation-3.0", embedding, "campplus", "cpu", batch_size=8)


def turns(diarizer: "Diarizer", waveform: Waveform, **bounds: int) -> tuple[SpeakerTurn, ...]:
    options: dict[str, Any] = {"on_progress": lambda _: None, "check": lambda: None, **bounds}
    return diarizer.turns(waveform, **options)


def labels(found: tuple[SpeakerTurn, ...]) -> list[str]:
    return list(dict.fromkeys(turn.speaker for turn in found))


def error_rate(reference: list[SpeakerTurn], found: tuple[SpeakerTurn, ...], duration_s: float) -> float:
    """Diarization error rate without a collar."""
    from pyannote.core import Annotation, Segment, Timeline
    from pyannote.metrics.diarization import DiarizationErrorRate

    expected, hypothesis = Annotation(), Annotation()
    for annotation, some in ((expected, reference), (hypothesis, found)):
        for index, turn in enumerate(some):
            annotation[Segment(turn.start, turn.end), index] = turn.speaker
    return float(DiarizationErrorRate()(expected, hypothesis, uem=Timeline([Segment(0, duration_s)])))


def test_two_speakers_are_told_apart(diarizer: "Diarizer", dialogue: Waveform, reference: list[SpeakerTurn]) -> None:
    progress: list[float] = []
    found = diarizer.turns(dialogue, on_progress=progress.append, check=lambda: None)
    assert labels(found) == ["SPEAKER_00", "SPEAKER_01"]
    assert error_rate(reference, found, len(dialogue) / SAMPLE_RATE) < 0.08
    assert progress == sorted(progress)
    assert (progress[0], progress[-1]) == (0.0, 1.0)
    for counts, model in ((tally.counts(), model) for tally, model in zip(diarizer.tallies, ("segmentation", "embeddings"), strict=True)):
        assert 0 < counts[f"batches:{model}"] <= counts[f"batch_windows:{model}"] <= counts[f"batch_room:{model}"]


def test_out_of_memory_changes_no_turn(diarizer: "Diarizer", dialogue: Waveform) -> None:
    """The embeddings' model raises what cuDNN does below torch; its batches get smaller for good, and nothing is done twice."""
    expected, pipeline, sizes = turns(diarizer, dialogue), diarizer._pipeline, list[int]()
    embed, was = pipeline._embed, pipeline._embeds.batch_size

    def small_memory(waveforms: Any, masks: Any) -> Any:
        sizes.append(len(waveforms))
        if len(waveforms) > 2:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
        return embed(waveforms, masks)

    pipeline._embed = small_memory
    try:
        assert turns(diarizer, dialogue) == expected
        assert sizes[:3] == [8, 4, 2]
        assert max(sizes[2:]) == 2
    finally:
        pipeline._embed, pipeline._embeds.batch_size = embed, was


def test_one_speaker_is_one_speaker(diarizer: "Diarizer", dialogue: Waveform, reference: list[SpeakerTurn]) -> None:
    alone = [turn for turn in reference if turn.speaker == "A"]
    parts = [dialogue[round(turn.start * SAMPLE_RATE) : round(turn.end * SAMPLE_RATE)] for turn in alone]
    assert labels(turns(diarizer, np.concatenate(parts))) == ["SPEAKER_00"]


def test_the_number_of_speakers_is_what_was_asked_for(diarizer: "Diarizer", dialogue: Waveform) -> None:
    assert labels(turns(diarizer, dialogue[: 12 * SAMPLE_RATE], num_speakers=1)) == ["SPEAKER_00"]
    assert len(labels(turns(diarizer, dialogue[: 12 * SAMPLE_RATE], min_speakers=2, max_speakers=2))) == 2


@pytest.mark.filterwarnings("ignore:\\s*The detected number of speakers:UserWarning")  # silenced by us, which pytest undoes
def test_more_speakers_than_can_be_found_are_no_error(diarizer: "Diarizer", dialogue: Waveform, capsys: pytest.CaptureFixture[str]) -> None:
    assert turns(diarizer, dialogue[: 4 * SAMPLE_RATE], num_speakers=9)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.2, 0.6, 12.0])
def test_silence_however_short_has_no_turns(diarizer: "Diarizer", seconds: float) -> None:
    assert turns(diarizer, np.zeros(round(seconds * SAMPLE_RATE), dtype=np.float32)) == ()


def test_a_moment_of_speech_is_no_error(diarizer: "Diarizer", dialogue: Waveform) -> None:
    moment = dialogue[round(0.5 * SAMPLE_RATE) : round(0.7 * SAMPLE_RATE)]
    assert turns(diarizer, moment) == ()
    longer = dialogue[round(0.5 * SAMPLE_RATE) : round(1.2 * SAMPLE_RATE)]
    assert all(turn.end <= 0.7 for turn in turns(diarizer, longer))


def test_a_cancelled_job_stops(diarizer: "Diarizer", dialogue: Waveform) -> None:
    def cancelled() -> None:
        raise JobCancelled

    with pytest.raises(JobCancelled):
        diarizer.turns(dialogue, on_progress=lambda _: None, check=cancelled)


def test_two_threads_get_what_one_gets(diarizer: "Diarizer", dialogue: Waveform) -> None:
    first, second = dialogue[: 9 * SAMPLE_RATE], dialogue[9 * SAMPLE_RATE : 16 * SAMPLE_RATE]
    alone = [turns(diarizer, part) for part in (first, second)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(partial(turns, diarizer), (first, second))) == alone


def random_masks(items: int, frames: int) -> Any:
    import torch

    torch.manual_seed(1)
    masks = (torch.rand(items, 3, frames // 20 + 1).repeat_interleave(20, dim=2)[:, :, :frames] > 0.6).float()
    masks[:, 0, : frames // 2] = 1.0  # nobody is silent
    return masks


def test_masks_embedded_together_are_as_each_alone(model_dir: Path) -> None:
    import torch

    from worker.engine.campplus import CampPlus

    model = CampPlus.load(model_dir / "campplus-zh-en" / "campplus_cn_en_common.pt")
    waveforms, masks = torch.randn(2, 1, 3 * SAMPLE_RATE) * 0.1, random_masks(2, 177)
    with torch.inference_mode():
        together = model(waveforms, masks)
        apart = torch.cat([model(waveforms, masks[:, [index]]) for index in range(3)], dim=1)
    assert torch.allclose(together, apart, atol=1e-4)
    assert not torch.allclose(together[:, 0], together[:, 1], atol=1e-2)


@pytest.fixture(scope="module")
def wespeaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as pyannote writes it, of random weights."""
    import torch

    from worker.engine.pyannote_parts import WeSpeakerResNet34, task

    torch.manual_seed(2)
    model = WeSpeakerResNet34()
    model.specifications = task.Specifications(
        problem=task.Problem.REPRESENTATION, resolution=task.Resolution.CHUNK, duration=5.0, classes=["one"]
    )
    content: dict[str, Any] = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    model.on_save_checkpoint(content)
    path = tmp_path_factory.mktemp("wespeaker") / "pytorch_model.bin"
    torch.save(content, path)
    return path.parent


def test_one_pass_of_wespeaker_equals_pyannote_s_own_per_mask(wespeaker: Path) -> None:
    import torch

    from worker.engine.checkpoints import load_pyannote
    from worker.engine.diarization import wespeaker_embeddings

    model = load_pyannote(wespeaker)
    waveforms, masks = torch.randn(2, 1, 3 * SAMPLE_RATE) * 0.1, random_masks(2, 177)
    with torch.inference_mode(), pytest.warns(UserWarning, match="Mismatch between frames"):
        apart = torch.stack([model(waveforms, weights=masks[:, index]) for index in range(3)], dim=1)
    with torch.inference_mode():
        together = wespeaker_embeddings(model, waveforms, masks)
    assert torch.allclose(together, apart, atol=1e-5)


def test_turns_with_wespeaker_are_those_of_pyannote_s_own_pipeline(model_dir: Path, wespeaker: Path, dialogue: Waveform) -> None:
    import torch

    from worker.engine.checkpoints import load_pyannote
    from worker.engine.diarization import Diarizer, parameters
    from worker.engine.pyannote_parts import SpeakerDiarization

    segmentation = model_dir / "pyannote-segmentation-3.0"
    waveform = dialogue[: 12 * SAMPLE_RATE]
    stock = SpeakerDiarization(
        segmentation=load_pyannote(segmentation), embedding=load_pyannote(wespeaker), embedding_exclude_overlap=True, embedding_batch_size=4
    )
    stock.instantiate(parameters("wespeaker"))
    theirs = stock({"waveform": torch.from_numpy(waveform)[None], "sample_rate": SAMPLE_RATE}, num_speakers=2)
    found = turns(Diarizer.load(segmentation, wespeaker, "wespeaker", "cpu", batch_size=4), waveform, num_speakers=2)
    expected = tuple(SpeakerTurn(segment.start, segment.end, label) for segment, _, label in theirs.itertracks(yield_label=True))
    assert error_rate(list(expected), found, 12.0) < 0.001


class Malice:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run by a pickle",)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from worker.engine.checkpoints import load_pyannote

    for zipped in (True, False):
        torch.save(Malice(), tmp_path / "model.bin", _use_new_zipfile_serialization=zipped, pickle_module=pickle)
        with pytest.raises(ModelMissing, match=r"__builtin__\.print"):
            load_pyannote(tmp_path / "model.bin")
    assert capsys.readouterr().out == ""


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    from worker.engine.campplus import CampPlus
    from worker.engine.checkpoints import load_pyannote

    with pytest.raises(ModelMissing, match=str(tmp_path)):
        load_pyannote(tmp_path)
    with pytest.raises(ModelMissing, match="nothing"):
        CampPlus.load(tmp_path / "nothing.pt")
