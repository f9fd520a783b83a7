"""The self-test: a moment of speech through every stage on the device. A child of the doctor's, since a wrong CUDA library ends the
process that meets it: `python -m worker.doctor.deep --json` (worker/doctor/child.py).
"""

import argparse
import contextlib
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from core import log
from core.errors import EngineFailed, SettingsError, SpillwayError
from core.job import JobOptions, Stage
from core.media import SAMPLE_RATE, Ffmpeg
from core.settings import Settings
from core.transcript import Transcript
from worker.doctor.findings import Finding, Verdict, faults
from worker.doctor.mapped import mapped_finding, mapped_libraries
from worker.engine.load import load_engine
from worker.work import Transcribe, Work

SAMPLE = Path(__file__).parents[2] / "samples" / "dialogue.flac"
SPEECH_S = (0.0, 1.5)  # of the sample: the first words
LOADING = "deep: models"
STAGES = (Stage.VAD, Stage.ASR, Stage.DIARIZATION, Stage.ALIGNMENT, Stage.ASSIGNMENT)


def deep_findings(settings: Settings, sample: Path = SAMPLE) -> list[Finding]:
    begun = time.perf_counter()
    try:
        engine = load_engine(settings)
    except (SpillwayError, RuntimeError, ValueError) as error:
        unrun = [Finding(_check(stage), Verdict.NOT_CHECKED, "the models did not load") for stage in STAGES]
        return [Finding(LOADING, Verdict.WRONG, _said(error), _remedy(error)), *unrun]
    loaded = Finding(LOADING, Verdict.OK, f"{settings.asr_model} and the others loaded in {time.perf_counter() - begun:.1f} s")
    try:
        stages = stage_findings(engine.transcribe, settings, sample)
    finally:
        engine.close()
    libraries = mapped_libraries(Path("/proc/self/maps").read_text())
    return [loaded, *stages, mapped_finding(libraries, settings.device)]


class _Attempt:
    """How far the work has come."""

    def __init__(self) -> None:
        self.reached = Stage.VAD
        self._done: set[Stage] = set()

    def report(self, stage: Stage, _: float) -> None:
        if stage != self.reached:
            self._done |= {before for before in (Stage.VAD, Stage.ALIGNMENT) if STAGES.index(before) < STAGES.index(stage)}
            self.reached = stage

    def keep(self, stage: Stage, _: bytes) -> None:
        self._done.add(stage)

    def failure(self, error: Exception) -> list[Finding]:
        """The line of each stage once one has broken."""
        broken = Stage(error.stage) if isinstance(error, EngineFailed) and error.stage in STAGES else self.reached
        lines = {stage: Finding(_check(stage), Verdict.NOT_CHECKED, f"{broken} broke") for stage in STAGES}
        lines |= {stage: Finding(_check(stage), Verdict.OK, "done before another broke") for stage in self._done}
        return list((lines | {broken: Finding(_check(broken), Verdict.WRONG, _said(error), _remedy(error))}).values())


def stage_findings(transcribe: Transcribe, settings: Settings, sample: Path) -> list[Finding]:
    attempt = _Attempt()
    try:
        transcript = transcribe(_work(settings, sample, attempt))
    except (SpillwayError, RuntimeError, ValueError) as error:
        return attempt.failure(error)
    return [_stage(stage, transcript) for stage in STAGES]


def _work(settings: Settings, sample: Path, attempt: _Attempt) -> Work:
    start, end = SPEECH_S
    audio = Ffmpeg(settings.ffmpeg).decode(sample, start_s=start, end_s=end)
    options = JobOptions(language="en", on_diarization_failure="fail")
    duration_s = len(audio) / 4 / SAMPLE_RATE
    return Work("doctor", 1, options, audio, 0.0, duration_s, {}, attempt.keep, attempt.report, lambda: None)


def _stage(stage: Stage, transcript: Transcript) -> Finding:
    seconds = transcript.run.stages_s.get(stage)
    if seconds is None:
        return Finding(_check(stage), Verdict.WRONG, "did not run: nothing was heard in the sample", "lower SPILLWAY_VAD_ONSET")
    found = f"{seconds:.2f} s on {transcript.run.device}"
    if stage == Stage.ASR and not transcript.segments:
        remedy = "set SPILLWAY_COMPUTE_TYPE=auto; if it stays so, pull the Whisper model again"
        return Finding(_check(stage), Verdict.WRONG, f"{found}, and no word was recognized", remedy)
    if stage == Stage.ALIGNMENT:
        found += "" if transcript.models.alignment else "; no alignment model of English is there: times came from Whisper's attention"
    return Finding(_check(stage), Verdict.OK, found)


def _check(stage: Stage) -> str:
    return f"deep: {stage}"


def _said(error: Exception) -> str:
    return f"{error}" or type(error).__name__


def _remedy(error: Exception) -> str:
    if isinstance(error, SpillwayError):
        return "do what the message says, then run the doctor again"
    return "docs/gpu.md lists what CUDA's messages mean"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m worker.doctor.deep", description=__doc__)
    parser.add_argument("--json", action="store_true", help="a list of findings, for the doctor")
    given = parser.parse_args()
    try:
        settings = Settings.from_environment()
    except SettingsError as error:
        sys.exit(f"spillway doctor: {error}")
    log.configure("doctor", level="warning", form=settings.log_format)
    with contextlib.redirect_stdout(sys.stderr):  # what libraries print
        findings = deep_findings(settings)
    if given.json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings]) + "\n")
    else:
        sys.stdout.writelines(f"{one.verdict}: {one.check}: {one.found} {one.remedy}\n" for one in findings)
    return 1 if faults(findings) else 0


if __name__ == "__main__":
    sys.exit(main())
