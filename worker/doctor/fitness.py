"""The doctor at the start of a worker."""

from collections.abc import Sequence

from core.errors import ModelMissing, OurError
from core.log import logger
from core.settings import Settings
from worker.doctor.examine import examine
from worker.doctor.findings import Finding, Verdict, faults
from worker.doctor.models import CHECKS as MODEL_CHECKS
from worker.doctor.occasion import Occasion

log = logger("worker.doctor")


def check_fitness(settings: Settings, occasion: Occasion = Occasion.START) -> None:
    """Raises `ModelMissing` when models alone are at fault, else `OurError`, with every fault in a sentence; each line that is not
    right is logged with its remedy."""
    findings = list(examine(settings, occasion))
    _log(findings)
    if wrong := faults(findings):
        only_models = all(fault.check in MODEL_CHECKS for fault in wrong)
        raise (ModelMissing if only_models else OurError)(" ".join(map(_sentence, wrong)))


def _log(findings: Sequence[Finding]) -> None:
    for finding in findings:
        if finding.verdict is Verdict.WRONG:
            log.error("fault", check=finding.check, found=finding.found, remedy=finding.remedy)
        elif finding.verdict is Verdict.WARNING:
            log.warning("not as it should be", check=finding.check, found=finding.found, remedy=finding.remedy)


def _sentence(fault: Finding) -> str:
    return f"{fault.check}: {fault.found}. {fault.remedy[:1].upper()}{fault.remedy[1:]}."
