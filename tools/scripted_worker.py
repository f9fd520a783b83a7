"""A worker whose jobs say by themselves how they run: real in all but the models, for breaking things at a price that two cores pay.

`python -m tools.scripted_worker --journal FILE [--real]`. A job's `metadata.script` says what its stages do; with --real a job
without one is transcribed by the models of the settings. Every begin and end of a stage is one line of the journal, appended in
one write, so that what happened is told by the stages themselves and not by the records that are under test.
"""

import argparse
import ctypes
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Literal, NoReturn

from pydantic import BaseModel, ConfigDict

from core.errors import OutOfMemory
from core.figures import WorkerFigures
from core.job import Stage
from core.settings import Settings
from core.transcript import Models, Run, Segment, Transcript
from worker.attempt import Recordings
from worker.celery_app import fit_engine
from worker.presence import Presence
from worker.serving import Runs, serve
from worker.work import Work

STEP_S = 0.02  # between two looks at whether the job is still ours, as a batch is in the engine
PRODUCT = b'"kept"'


class Script(BaseModel):
    """What each of the two stages takes, and what the job does in `stage` of its first `times` attempts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seconds: float = 0.0  # of each stage
    hold_s: float = 0.0  # that `stage` keeps the GIL, as a library may
    then: Literal["end", "segfault", "exit", "hang", "out_of_memory", "break"] = "end"
    stage: Literal["asr", "alignment"] = "asr"
    times: int = 1_000_000


class Journal:
    """Append-only; one line per event, safe for many processes."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, work: Work, stage: Stage, event: str) -> None:
        line = {"at": time.time(), "job": work.job_id, "attempt": work.attempt, "stage": stage, "event": event, "pid": os.getpid()}
        os.write(self._file, (json.dumps(line) + "\n").encode())


class ScriptedEngine:
    """Passes the engine's stages and keeps ASR as a product, as it does: a retry begins after it."""

    def __init__(self, journal: Journal, load_real: Callable[[], Runs] | None) -> None:
        """The real engine is loaded by the first job that wants it: the others need not wait for it."""
        self._journal, self._load_real = journal, load_real
        self._loading = threading.Lock()
        self._real: Runs | None = None

    def transcribe(self, work: Work) -> Transcript:
        if self._load_real and "script" not in work.options.metadata:
            with self._loading:
                self._real = self._real or self._load_real()
            return self._real.transcribe(work)
        script = Script.model_validate(work.options.metadata.get("script", {}))
        work.report(Stage.VAD, 0.0)
        if Stage.ASR not in work.kept:
            self._stage(work, Stage.ASR, script)
            work.keep(Stage.ASR, PRODUCT)
        work.report(Stage.DIARIZATION, 0.0)
        self._stage(work, Stage.ALIGNMENT, script)
        work.report(Stage.ASSIGNMENT, 1.0)
        return _transcript(work, script.seconds)

    def figures(self) -> WorkerFigures:
        return self._real.figures() if self._real else WorkerFigures({}, None)

    def _stage(self, work: Work, stage: Stage, script: Script) -> None:
        self._journal.note(work, stage, "begin")
        work.report(stage, 0.0)
        end = time.monotonic() + script.seconds
        while (left := end - time.monotonic()) > 0:
            work.check()
            work.report(stage, 1 - left / script.seconds)
            time.sleep(min(STEP_S, left))
        work.check()
        if script.stage == stage and script.hold_s:
            _hold_the_gil(script.hold_s)
        if script.stage == stage and work.attempt <= script.times:
            ENDINGS[script.then]()
        self._journal.note(work, stage, "end")


def _hold_the_gil(seconds: float) -> None:
    ctypes.PyDLL(None).usleep(round(seconds * 1e6))


def _segfault() -> None:
    ctypes.string_at(0)


def _hang() -> NoReturn:
    """As a kernel that never comes back: nobody looks at whether the job is still ours."""
    while True:
        time.sleep(3600)


def _out_of_memory() -> NoReturn:
    raise OutOfMemory("the script says that the device's memory does not hold a single item")


def _break() -> NoReturn:
    raise RuntimeError("the script says that this stage breaks")


ENDINGS: Mapping[str, Callable[[], None]] = {
    "end": lambda: None,
    "segfault": _segfault,
    "exit": lambda: os._exit(9),
    "hang": _hang,
    "out_of_memory": _out_of_memory,
    "break": _break,
}


def _transcript(work: Work, seconds: float) -> Transcript:
    """Its text names the attempt, so that a reader can tell whose result became visible."""
    segment = Segment(
        id=0, start=0.0, end=work.duration_s, text=f"job {work.job_id} attempt {work.attempt}", speaker=None, avg_logprob=0.0,
        no_speech_prob=0.0, compression_ratio=1.0, words=(),
    )  # fmt: skip
    return Transcript(
        language="en", language_probability=None, duration_s=work.duration_s, segments=(segment,), turns=(), speakers=(), warnings=(),
        models=Models(asr="scripted", alignment=None, segmentation=None, embedding=None),
        run=Run(runner="local", attempt=work.attempt, device="cpu", stages_s={}, real_time_factor=work.duration_s / max(seconds, STEP_S)),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.scripted_worker", description="A worker whose jobs say how they run.")
    parser.add_argument("--journal", type=Path, required=True, help="file that every stage's begin and end is appended to")
    parser.add_argument("--real", action="store_true", help="jobs without a script are transcribed by the settings' models")
    given = parser.parse_args(sys.argv[1:])
    journal = Journal(given.journal)

    def prepare(settings: Settings, media: Recordings, presence: Presence) -> Runs:
        return ScriptedEngine(journal, partial(fit_engine, settings, media, presence) if given.real else None)

    serve(prepare)


if __name__ == "__main__":
    main()
