"""Everything that is checked, in the order of the table."""

import os
from collections.abc import Iterator, Sequence

from core.media import Ffmpeg
from core.settings import Settings
from worker.doctor.findings import Finding, Verdict
from worker.doctor.gpu import CHECKS as GPU_CHECKS
from worker.doctor.gpu import gpu_findings
from worker.doctor.libraries import QUESTIONS, library_findings, unasked_finding, why_not_asked
from worker.doctor.models import gated_access_finding, model_findings
from worker.doctor.occasion import Occasion
from worker.doctor.packages import glibc_finding, package_findings, python_finding
from worker.doctor.probing import probe
from worker.doctor.running import running_worker
from worker.doctor.services import file_store_finding, modal_finding, redis_findings
from worker.doctor.tools import ffmpeg_findings

NOT_AT_BUILD = (
    "Whisper model", "diarization models", "alignment models", "Redis", "Redis durability", "Redis eviction", "file store",
    "gated models", "Modal token",
)  # fmt: skip


def examine(settings: Settings, occasion: Occasion) -> Iterator[Finding]:
    yield python_finding()
    yield glibc_finding()
    yield from package_findings(settings)
    yield from _gpu(settings, occasion)
    yield from ffmpeg_findings(Ffmpeg(settings.ffmpeg))
    if occasion is Occasion.BUILD:
        yield from _unknown_yet(NOT_AT_BUILD)
        return
    yield from model_findings(settings, occasion)
    if occasion is Occasion.BURST:
        return
    yield from redis_findings(settings)
    yield file_store_finding(settings)
    if occasion is Occasion.BY_HAND:  # neither keeps a worker from its jobs
        yield gated_access_finding(settings)
        yield modal_finding(settings)


def _gpu(settings: Settings, occasion: Occasion) -> Iterator[Finding]:
    if why_not_asked(settings, occasion):
        yield unasked_finding(settings, occasion)
        return
    answers = probe(QUESTIONS)
    yield from library_findings(settings, answers)
    if occasion is Occasion.BUILD:
        yield from _unknown_yet(GPU_CHECKS)
    else:
        worker = running_worker(settings) if occasion is Occasion.BY_HAND else None
        yield from gpu_findings(settings, answers["torch"].value.get("archs", ()), os.environ, worker=worker)


def _unknown_yet(checks: Sequence[str]) -> Iterator[Finding]:
    return (Finding(check, Verdict.NOT_CHECKED, "known when it runs, not while the image is built") for check in checks)
