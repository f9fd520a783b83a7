"""From a waveform to the canonical transcript: voice activity, then ASR and diarization side by side, word times, speakers."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from core.errors import CallerError, LeaseLost
from core.figures import Memory, WorkerFigures
from core.job import JobOptions, Stage
from core.log import logger
from core.transcript import Models, Notice, Run, Segment, Speaker, Transcript, Turn
from worker.engine.aligners import Aligners
from worker.engine.asr import DecodeOptions, SpeechRecognizer
from worker.engine.diarization import Diarizer
from worker.engine.notices import Outcome, Spoken, notices
from worker.engine.products import HEARD, TURNS, Heard, read_product
from worker.engine.progress import Progress
from worker.engine.results import SAMPLE_RATE, SpeakerTurn, Waveform, Window
from worker.engine.speakers import assign_speakers
from worker.engine.timekeeper import Timekeeper
from worker.engine.vad import VoiceActivityDetector
from worker.engine.waveforms import waveform_of
from worker.work import DIARIZATION_FAILED, Work

log = logger("worker.engine")
CHECK_EVERY_S = 0.25


@dataclass(frozen=True)
class Parts:
    """The loaded models and what they are called."""

    vad: VoiceActivityDetector
    recognizer: SpeechRecognizer
    diarizer: Diarizer
    aligners: Aligners
    asr_name: str
    segmentation_name: str
    embedding_name: str
    device: str
    beam_size: int
    memory: Callable[[], Memory | None] = lambda: None  # the GPU's, now


class Engine:
    """Safe to call from as many threads as jobs are in flight; their windows share batches."""

    def __init__(self, parts: Parts, *, jobs: int) -> None:
        """`jobs`: how many may be in flight."""
        self._parts = parts
        # Each job's diarization runs beside its ASR; the device is shared below, in the models.
        self._beside = ThreadPoolExecutor(jobs, thread_name_prefix="diarization")

    @property
    def device(self) -> str:
        return self._parts.device

    def transcribe(self, work: Work) -> Transcript:
        """Raises `InvalidRequest` for what the models cannot do, `LeaseLost` when told to stop, `OutOfMemory`, `EngineFailed`.

        Whether a transcript without speakers is good enough is the runner's to say: its warnings tell.
        """
        begun = perf_counter()
        waveform = waveform_of(work.audio)
        progress = Progress(work.report)
        timed_by = Timekeeper(self._parts.aligners, work.options)
        windows = self._windows(waveform, work, progress)
        heard, spoken = self._listen(waveform, windows, work, timed_by, progress)
        with progress.stage(Stage.ALIGNMENT) as advance:
            sentences = timed_by.sentences(waveform, heard, on_progress=advance, check=work.check)
        with progress.stage(Stage.ASSIGNMENT):
            segments = assign_speakers(sentences, spoken.turns)
        seconds = perf_counter() - begun
        return Transcript(
            language=heard.language.code,
            language_probability=heard.language.probability,
            duration_s=work.duration_s,
            segments=tuple(_placed(segment, work) for segment in segments),
            turns=_turns(spoken.turns, work),
            speakers=_speakers(spoken.turns),
            warnings=notices(Outcome(windows, heard, spoken, segments, len(waveform) / SAMPLE_RATE), work),
            models=self._models(timed_by.model(heard.language.code), work.options),
            run=Run(
                runner="local",
                attempt=work.attempt,
                device=self._parts.device,
                stages_s=progress.seconds,
                real_time_factor=round(len(waveform) / SAMPLE_RATE / seconds, 2),
            ),
        )

    def figures(self) -> WorkerFigures:
        tallies = (*self._parts.recognizer.tallies, *self._parts.diarizer.tallies)
        return WorkerFigures({name: count for tally in tallies for name, count in tally.counts().items()}, self._parts.memory())

    def close(self) -> None:
        self._beside.shutdown(cancel_futures=True)
        self._parts.recognizer.close()

    def _windows(self, waveform: Waveform, work: Work, progress: Progress) -> tuple[Window, ...]:
        with progress.stage(Stage.VAD) as advance:
            return self._parts.vad.windows(waveform, on_progress=advance, check=work.check)

    def _listen(
        self, waveform: Waveform, windows: tuple[Window, ...], work: Work, timed_by: Timekeeper, progress: Progress
    ) -> tuple[Heard, Spoken]:
        """ASR here, diarization beside it, which is stopped when ASR ends by raising; the other way round ASR is kept for the retry."""
        if not (work.options.diarize and windows):
            return self._recognize(waveform, windows, work, timed_by, progress), Spoken()
        stop = _Stop(work)
        diarization = self._beside.submit(self._diarize, waveform, work, progress, stop)
        try:
            heard = self._recognize(waveform, windows, work, timed_by, progress)
            while not wait([diarization], timeout=CHECK_EVERY_S).done:
                work.check()
        except BaseException:
            stop.set()
            if not diarization.cancel():
                wait([diarization])
            raise
        return heard, diarization.result()

    def _recognize(self, waveform: Waveform, windows: tuple[Window, ...], work: Work, timed_by: Timekeeper, progress: Progress) -> Heard:
        kept = read_product(HEARD, work, Stage.ASR)
        if kept and kept.model == self._parts.asr_name:
            return kept
        options = work.options
        decoding = DecodeOptions(
            options.language, options.task, options.initial_prompt, self._parts.beam_size, is_timed=timed_by.wants_attention
        )
        with progress.stage(Stage.ASR) as advance:
            language, recognitions = self._parts.recognizer.recognize(
                waveform,
                windows,
                decoding,
                job=f"{work.job_id}/{work.attempt}",
                on_window=lambda done, total: advance(done / total),
                check=work.check,
            )
        heard = Heard(self._parts.asr_name, language, recognitions)
        work.keep(Stage.ASR, HEARD.dump_json(heard))
        return heard

    def _diarize(self, waveform: Waveform, work: Work, progress: Progress, stop: "_Stop") -> Spoken:
        """At the job runner's edge: whatever breaks in the pipeline, the words are still there."""
        if kept := read_product(TURNS, work, Stage.DIARIZATION):
            return Spoken(kept)
        options = work.options
        bounds = {"num_speakers": options.num_speakers, "min_speakers": options.min_speakers, "max_speakers": options.max_speakers}
        try:
            with progress.stage(Stage.DIARIZATION) as advance:
                turns = self._parts.diarizer.turns(waveform, **bounds, on_progress=advance, check=stop.check)
        except (LeaseLost, CallerError):
            raise
        except Exception as error:
            return _without_speakers(error, work)
        work.keep(Stage.DIARIZATION, TURNS.dump_json(turns))
        return Spoken(turns)

    def _models(self, alignment: str | None, options: JobOptions) -> Models:
        return Models(
            asr=self._parts.asr_name,
            alignment=alignment,
            segmentation=self._parts.segmentation_name if options.diarize else None,
            embedding=self._parts.embedding_name if options.diarize else None,
        )


class _Stop(threading.Event):
    """Set when the job's other half has failed: there is no more use for this one."""

    def __init__(self, work: Work) -> None:
        super().__init__()
        self._work = work

    def check(self) -> None:
        self._work.check()
        if self.is_set():
            raise LeaseLost(self._work.job_id)


def _without_speakers(error: Exception, work: Work) -> Spoken:
    log.error("diarization failed", job_id=work.job_id, exc_info=error)
    return Spoken(failure=Notice(code=DIARIZATION_FAILED, message="The speakers could not be told apart; the words are complete."))


def _placed(segment: Segment, work: Work) -> Segment:
    """Moved from the clip's time to the file's, kept inside it, and without digits that say nothing."""
    figures = {name: round(getattr(segment, name), 4) for name in ("avg_logprob", "no_speech_prob", "compression_ratio")}
    words = tuple(word.model_copy(update={**_moved(word, work), "score": _rounded(word.score)}) for word in segment.words)
    return segment.model_copy(update={**_moved(segment, work), **figures, "words": words})


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 3)


def _moved(timed: Any, work: Work) -> dict[str, float]:
    return {name: min(round(getattr(timed, name) + work.offset_s, 3), work.duration_s) for name in ("start", "end")}


def _turns(turns: tuple[SpeakerTurn, ...], work: Work) -> tuple[Turn, ...]:
    return tuple(Turn(speaker=turn.speaker, **_moved(turn, work)) for turn in turns)


def _speakers(turns: tuple[SpeakerTurn, ...]) -> tuple[Speaker, ...]:
    total_s: dict[str, float] = {}
    for turn in turns:
        total_s[turn.speaker] = total_s.get(turn.speaker, 0.0) + turn.end - turn.start
    return tuple(Speaker(label=label, total_s=round(total_s[label], 3)) for label in sorted(total_s))
