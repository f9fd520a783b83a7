"""Models by name, on this machine's disk: which files a name means, and `python -m worker.model_files pull|list|verify`.

Resolving never touches the network: what is missing is named together with the command that brings it.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import get_token
from rich.console import Console

from core.errors import ModelMissing, SpillwayError
from core.log import logger
from core.settings import Settings
from worker import model_catalog as catalog
from worker.model_catalog import HubSource, Model, PackageSource
from worker.model_lock import OWN_FOLDER, Record, check, check_own, read_lock
from worker.model_progress import progress
from worker.model_pull import Say, pull, supply_for

_STDOUT = Console()
log = logger("worker.models")


@dataclass(frozen=True)
class DiarizationFiles:
    """`config` is pyannote's own pipeline configuration, there with `wespeaker` only."""

    kind: Literal["campplus", "wespeaker"]
    segmentation: Path
    embedding: Path
    segmentation_name: str
    embedding_name: str
    config: Path | None = None


@dataclass(frozen=True)
class AlignmentFiles:
    """`torchaudio`: path is the weights of the pipeline `bundle`; `huggingface`: path is a Wav2Vec2ForCTC folder."""

    kind: Literal["torchaudio", "huggingface"]
    path: Path
    name: str
    bundle: str | None = None


def resolve_asr(name: str, model_dir: Path) -> Path:
    """The CTranslate2 folder of a known name, of `owner/repository[@revision]`, or a folder given as /…, ./…, ../… or ~…"""
    if _is_folder(name):
        return _own_folder(name, model_dir)
    model = catalog.find(name)
    check(model, model_dir)
    return model_dir / model.name


def resolve_diarization(name: str, model_dir: Path) -> DiarizationFiles:
    """`pyannote-3.1`, `campplus`, or `auto`: the former if it was pulled, else the latter."""
    if name not in ("auto", "campplus", *catalog.PIPELINE.aliases):
        raise ModelMissing(f"unknown diarization model {name!r}: SPILLWAY_DIARIZATION_MODEL is auto, pyannote-3.1 or campplus")
    pyannote = takes_pyannote(name, model_dir)
    for model in catalog.PYANNOTE_DIARIZATION if pyannote else catalog.UNGATED_DIARIZATION:
        check(model, model_dir)
    embedding = catalog.WESPEAKER if pyannote else catalog.CAMPPLUS
    return DiarizationFiles(
        "wespeaker" if pyannote else "campplus",
        _only_file(catalog.SEGMENTATION, model_dir),
        _only_file(embedding, model_dir),
        catalog.SEGMENTATION.name,
        embedding.name,
        _only_file(catalog.PIPELINE, model_dir) if pyannote else None,
    )


def takes_pyannote(name: str, model_dir: Path) -> bool:
    """As things are on the disk; `pulls_pyannote` says what a pull would make of it."""
    return name in catalog.PIPELINE.aliases or (name == "auto" and are_there(catalog.PYANNOTE_DIARIZATION, model_dir))


def pulls_pyannote(settings: Settings) -> bool:
    is_possible = settings.diarization_model == "auto" and settings.hf_token is not None
    return settings.diarization_model in catalog.PIPELINE.aliases or is_possible


def are_there(models: Iterable[Model], model_dir: Path) -> bool:
    return all((model_dir / model.name).is_dir() for model in models)


def resolve_alignment(language: str, model_dir: Path) -> AlignmentFiles | None:
    """None if no model of the language was pulled: word times then come from Whisper's own attention."""
    model = catalog.ALIGNMENT.get(language)
    if model is None or not (model_dir / model.name).is_dir():
        return None
    check(model, model_dir)
    if model.bundle:
        return AlignmentFiles("torchaudio", _only_file(model, model_dir), model.name, model.bundle)
    return AlignmentFiles("huggingface", model_dir / model.name, model.name)


def verify(model_dir: Path, names: Iterable[str]) -> None:
    """Holds the files to the catalog's and the lock's digests. Raises `ModelMissing` naming the first that fails."""
    for name in names:
        if _is_folder(name):
            _own_folder(name, model_dir)
        else:
            check(catalog.find(name), model_dir)


def profile_models(profile: str, settings: Settings, languages: Iterable[str], say: Say) -> list[Model]:
    if profile in ("demo", "test"):
        return list(catalog.DEMO if profile == "demo" else catalog.TEST)
    return [*_diarization_for(settings, say), *_alignment_for(languages, say), *_asr_for(settings, say)]


def own_folder(name: str) -> Path | None:
    """The user's own folder that a name means, if it means one."""
    return Path(name).expanduser().absolute() if _is_folder(name) else None


def _is_folder(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~"))


def _own_folder(name: str, model_dir: Path) -> Path:
    folder = Path(name).expanduser().absolute()
    missing = [name for name in ("model.bin", "config.json") if not (folder / name).is_file()]
    if missing:
        raise ModelMissing(f"{folder} is no CTranslate2 Whisper model: {' and '.join(missing)} not there; see SPILLWAY_ASR_MODEL")
    try:
        check_own(folder, catalog.WHISPER_PATTERNS, model_dir)
    except OSError as error:
        log.warning("own model folder not recorded: it is not held to its digests", folder=str(folder), reason=str(error))
    return folder


def _only_file(model: Model, model_dir: Path) -> Path:
    return model_dir / model.name / model.required[0]


def _diarization_for(settings: Settings, say: Say) -> tuple[Model, ...]:
    if pulls_pyannote(settings):
        return catalog.PYANNOTE_DIARIZATION
    if settings.diarization_model == "auto":
        say("no SPILLWAY_HF_TOKEN: diarization takes segmentation-3.0 and CAM++, which need none, in place of the gated pyannote 3.1")
    return catalog.UNGATED_DIARIZATION


def _alignment_for(languages: Iterable[str], say: Say) -> list[Model]:
    languages = list(languages)
    for language in languages:
        if language not in catalog.ALIGNMENT:
            say(f"no alignment model is known for {language!r}: its word times come from Whisper's own attention")
    return [catalog.ALIGNMENT[language] for language in languages if language in catalog.ALIGNMENT]


def _asr_for(settings: Settings, say: Say) -> list[Model]:
    if _is_folder(settings.asr_model):
        say(f"SPILLWAY_ASR_MODEL is the folder {settings.asr_model}: nothing to pull for it")
        return []
    return [catalog.find(settings.asr_model)]


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    try:
        settings = Settings.from_environment()
        settings = settings.model_copy(update={"hf_token": settings.hf_token or get_token()})
        model_dir = (given.model_dir or settings.model_dir).expanduser().absolute()
        given.run(given, settings, model_dir, _line)
    except SpillwayError as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        _line("interrupted: the same command goes on where it stopped")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m worker.model_files", description="Model files: bring them, list them, check them.")
    commands = parser.add_subparsers(required=True, metavar="pull|list|verify")
    pulling = commands.add_parser("pull", help="bring what is missing; without a name or profile, what the settings name")
    pulling.add_argument(
        "--profile",
        choices=["demo", "test", "full"],
        help="demo: base, segmentation-3.0, CAM++; test: demo and tiny.en; full: the settings'",
    )
    pulling.add_argument(
        "--language",
        action="append",
        help="language of a forced alignment model (profile full); repeatable; default SPILLWAY_ALIGN_LANGUAGES",
    )
    pulling.set_defaults(run=_pull)
    listing = commands.add_parser("list", help="what is known by name, and which of it is there")
    listing.set_defaults(run=_list)
    checking = commands.add_parser("verify", help="hold every file, or those named, to its recorded digest")
    checking.set_defaults(run=_verify)
    for command in (pulling, listing, checking):
        command.add_argument("--model-dir", type=Path, help="default SPILLWAY_MODEL_DIR")
    for command in (pulling, checking):
        command.add_argument("names", nargs="*", metavar="NAME", help="a known name, or owner/repository[@revision]")
    return parser


def _pull(given: argparse.Namespace, settings: Settings, model_dir: Path, say: Say) -> None:
    models = [catalog.find(name) for name in given.names] + _alignment_for(given.language or (), say)
    if given.profile or not (given.names or given.language):
        models += profile_models(given.profile or "full", settings, () if given.language else settings.align_languages, say)
    with progress(_STDOUT, say) as report, supply_for(model_dir, settings.hf_token, report) as supply:
        pull(list({model.name: model for model in models}.values()), model_dir, supply, say)
    say(f"models are in {model_dir}")


def _list(_: argparse.Namespace, __: Settings, model_dir: Path, say: Say) -> None:
    records = read_lock(model_dir)
    for model in catalog.CATALOG:
        there = "there" if (model_dir / model.name).is_dir() else "-"
        say(f"{model.short_name:38} {there:6} {model.licence:26} {_origin(model, records.get(model.name))}")
    for folder in _others(records):
        if records[folder].source == OWN_FOLDER:
            say(f"{folder:38} there  {'your own':26} {OWN_FOLDER}")
            continue
        model = catalog.find(catalog.reference(folder))
        say(f"{model.short_name:38} there  {model.licence:26} {_origin(model, records[folder])}")


def _others(records: Mapping[str, Record]) -> list[str]:
    """What the catalog does not know."""
    return sorted(records.keys() - {model.name for model in catalog.CATALOG})


def _origin(model: Model, record: Record | None) -> str:
    if isinstance(model.source, HubSource):
        revision = (record and record.revision) or model.source.revision or "(the first pull records its revision)"
        return f"hub:{model.source.repository}@{revision}" + (" gated" if model.source.gated else "")
    if isinstance(model.source, PackageSource):
        return " + ".join(f"pypi:{wheel.filename}" for wheel in model.source.wheels)
    return model.source.url


def _verify(given: argparse.Namespace, _: Settings, model_dir: Path, say: Say) -> None:
    present = [model.short_name for model in catalog.CATALOG if (model_dir / model.name).is_dir()]
    records = read_lock(model_dir)
    others = [folder if records[folder].source == OWN_FOLDER else catalog.reference(folder) for folder in _others(records)]
    names = given.names or [*present, *others]
    if not names:
        raise ModelMissing(f"{model_dir} holds no models: run `python -m worker.model_files pull --profile demo --model-dir {model_dir}`")
    for name in names:
        verify(model_dir, [name])
        say(f"{name}: ok")


def _line(text: str) -> None:
    _STDOUT.print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
