"""The doctor at the start of a worker."""

from core.log import logger
from core.settings import Settings
from worker.doctor.examine import examine
from worker.doctor.findings import Finding, Verdict, faults
from worker.doctor.occasion import Occasion

log = logger("worker.doctor")


def reason_unfit(settings: Settings) -> str:
    """Every fault in a sentence, empty when there is none; each is logged with its remedy, and so is each warning."""
    findings = list(examine(settings, Occasion.START))
    for finding in findings:
        if finding.verdict is Verdict.WRONG:
            log.error("fault", check=finding.check, found=finding.found, remedy=finding.remedy)
        elif finding.verdict is Verdict.WARNING:
            log.warning("not as it should be", check=finding.check, found=finding.found, remedy=finding.remedy)
    return " ".join(_sentence(fault) for fault in faults(findings))


def _sentence(fault: Finding) -> str:
    return f"{fault.check}: {fault.found}. {fault.remedy[:1].upper()}{fault.remedy[1:]}."
