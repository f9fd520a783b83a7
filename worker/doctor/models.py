"""The model files that the settings name, held to what was recorded of them, and whether gated ones can be had."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import httpx
from huggingface_hub import hf_hub_url

from core.errors import ModelMissing
from core.settings import Settings
from worker import model_catalog as catalog
from worker.doctor.findings import Finding, Verdict
from worker.doctor.occasion import Occasion
from worker.model_catalog import HubSource, Model
from worker.model_files import are_there, pulls_pyannote, resolve_asr, takes_pyannote
from worker.model_lock import fault, pull_command

CHECKS = ("Whisper model", "alignment models", "diarization models")
DIARIZATION = ("auto", "campplus", *catalog.PIPELINE.aliases)
HUB_TIMEOUT_S = 10.0
REFUSALS = (401, 403)  # a token that is none, one without access


def model_findings(settings: Settings, occasion: Occasion) -> Iterator[Finding]:
    yield _asr(settings, occasion)
    yield _alignment(settings, occasion)
    if settings.diarization_model not in DIARIZATION:
        remedy = f"set SPILLWAY_DIARIZATION_MODEL to one of {', '.join(DIARIZATION)}"
        yield Finding("diarization models", Verdict.WRONG, f"{settings.diarization_model!r} is not known", remedy)
        return
    diarization = catalog.PYANNOTE_DIARIZATION if _takes_pyannote(settings) else catalog.UNGATED_DIARIZATION
    yield _finding("diarization models", diarization, settings, occasion)


def gated_access_finding(settings: Settings, *, hub: str | None = None) -> Finding:
    """Asks the hub, unless nothing gated is still to be pulled. Without `hub` it is huggingface_hub's own (HF_ENDPOINT)."""
    check = "gated models"
    if not _takes_pyannote(settings):
        return Finding(check, Verdict.OK, "none needed: diarization takes segmentation-3.0 and CAM++")
    if are_there(catalog.PYANNOTE_DIARIZATION, settings.model_dir):
        return Finding(check, Verdict.OK, "already pulled: no access is needed any more")
    gated = [model.source for model in catalog.PYANNOTE_DIARIZATION if isinstance(model.source, HubSource) and model.source.gated]
    refusals = [finding for source in gated if (finding := _refusal(check, source, settings, hub))]
    return refusals[0] if refusals else Finding(check, Verdict.OK, f"SPILLWAY_HF_TOKEN opens {', '.join(s.repository for s in gated)}")


def _asr(settings: Settings, occasion: Occasion) -> Finding:
    check = "Whisper model"
    try:
        if settings.asr_model.startswith(("/", "./", "../", "~")):
            return Finding(check, Verdict.OK, f"the folder {resolve_asr(settings.asr_model, settings.model_dir)}")
        return _finding(check, [catalog.find(settings.asr_model)], settings, occasion)
    except ModelMissing as error:
        return Finding(check, Verdict.WRONG, str(error), "set SPILLWAY_ASR_MODEL to a known name, a hub repository or a whole model folder")


def _alignment(settings: Settings, occasion: Occasion) -> Finding:
    """Missing ones are no fault: word times then come from Whisper's own attention."""
    models = [catalog.ALIGNMENT[language] for language in settings.align_languages if language in catalog.ALIGNMENT]
    there = [model for model in models if are_there([model], settings.model_dir)]
    held = _finding("alignment models", there, settings, occasion)
    absent = [model for model in models if model not in there]
    if held.verdict != Verdict.OK or not absent:
        return held
    names = ", ".join(model.short_name for model in absent)
    found = f"{names} not there: word times come from Whisper's own attention"
    later = " until the start of a worker brings them" if settings.pull_at_start else ""
    return Finding("alignment models", Verdict.WARNING, found + later, _pull_all(absent, settings.model_dir))


def _finding(check: str, models: Sequence[Model], settings: Settings, occasion: Occasion) -> Finding:
    quick = occasion in (Occasion.START, Occasion.BURST)
    try:
        found = {model.name: fault(model, settings.model_dir, quick=quick) for model in models}
    except ModelMissing as error:  # the lock beside them
        return Finding(check, Verdict.WRONG, str(error), f"restore {settings.model_dir}'s models.lock.json, or delete it and pull again")
    faulty = [model for model in models if found[model.name]]
    if not faulty:
        how = "by size" if quick else "by digest"
        return Finding(check, Verdict.OK, ", ".join(f"{model.short_name} ({how})" for model in models) or "none are named")
    said = "; ".join(found[model.name] for model in faulty)
    if settings.pull_at_start and not (occasion is Occasion.BY_HAND and are_there(faulty, settings.model_dir)):
        when = "will be brought at the start" if occasion is Occasion.START else "will be brought at the start of a worker"
        return Finding(check, Verdict.WARNING, f"{said}: {when}", _pull_all(faulty, settings.model_dir))
    return Finding(check, Verdict.WRONG, said, _pull_all(faulty, settings.model_dir))


def _pull_all(models: Collection[Model], model_dir: Path) -> str:
    return " and ".join(f"`{pull_command(model, model_dir)}`" for model in models)


def _takes_pyannote(settings: Settings) -> bool:
    """Now, or once the start of a worker has brought what it may."""
    is_brought = settings.pull_at_start and pulls_pyannote(settings)
    return is_brought or takes_pyannote(settings.diarization_model, settings.model_dir)


def _refusal(check: str, source: HubSource, settings: Settings, hub: str | None) -> Finding | None:
    remedy = (
        f"accept its conditions at https://huggingface.co/{source.repository}, then set SPILLWAY_HF_TOKEN to a token of that account, "
        "or use the default that needs none (SPILLWAY_DIARIZATION_MODEL=campplus)"
    )
    if not settings.hf_token:
        return Finding(check, Verdict.WRONG, f"{source.repository} is gated, and there is no SPILLWAY_HF_TOKEN", remedy)
    url = hf_hub_url(source.repository, source.patterns[0], revision=source.revision, endpoint=hub)
    status = _answer(url, settings.hf_token)
    if status in REFUSALS:
        return Finding(check, Verdict.WRONG, f"SPILLWAY_HF_TOKEN has no access to {source.repository}", remedy)
    if status != httpx.codes.OK:
        found = f"the hub answers {status}: access to {source.repository} could not be asked"
        return Finding(
            check, Verdict.WARNING, found, "check the network and the proxy, or copy the whole model folder from a machine that has it"
        )
    return None


def _answer(url: str, token: str) -> int | str:
    """The status, or the kind of failure that came in its place."""
    try:
        return httpx.head(url, headers={"Authorization": f"Bearer {token}"}, follow_redirects=True, timeout=HUB_TIMEOUT_S).status_code
    except httpx.HTTPError as error:
        return f"with {type(error).__name__}"
