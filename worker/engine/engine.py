"""From a waveform to the canonical transcript: voice activity, then ASR and diarization side by side, word times, speakers."""

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from core.errors import EngineFailed, LeaseLost, OurError
from core.job import JobOptions, Stage
from core.log import logger
from core.transcript import Models, Notice, Run, Segment, Speaker, Transcript, Turn
from worker.engine.aligners import Aligners
from worker.engine.asr import DecodeOptions, SpeechRecognizer
from worker.engine.diarization import Diarizer
from worker.engine.products import HEARD, TURNS, Heard
from worker.engine.progress import Progress
from worker.engine.results import SAMPLE_RATE, Language, Recognition, SpeakerTurn, TimedSentence, Waveform, Window
from worker.engine.sentences import sentences_from_words
from worker.engine.speakers import assign_speakers
from worker.engine.vad import VoiceActivityDetector
from worker.model_files import AlignmentFiles
from worker.work import Work

log = logger("worker.engine")
UNSURE_LANGUAGE = 0.5  # below it the transcript says that the language may be wrong


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


@dataclass(frozen=True)
class Spoken:
    """Who spoke when; `failure` says why nobody could be told apart."""

    turns: tuple[SpeakerTurn, ...] = ()
    failure: Notice | None = None


class Engine:
    """Safe to call from as many threads as jobs are in flight; their windows share batches."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        # Diarization of each job in flight runs beside its ASR; the device is shared below, in the models.
        self._beside = ThreadPoolExecutor(thread_name_prefix="diarization")

    def transcribe(self, work: Work) -> Transcript:
        """Raises `InvalidRequest` for what the models cannot do, `LeaseLost` when told to stop, `OutOfMemory`, `EngineFailed`."""
        begun = perf_counter()
        waveform = np.frombuffer(work.audio, dtype=np.float32).copy()  # the models want to own what they read
        progress = Progress(work.report)
        windows = self._windows(waveform, work, progress)
        heard, spoken = self._listen(waveform, windows, work, progress)
        sentences = self._sentences(waveform, heard, work, progress)
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
            warnings=_warnings(windows, heard, spoken, work.options),
            models=self._models(heard, work.options),
            run=Run(
                runner="local",
                attempt=work.attempt,
                device=self._parts.device,
                stages_s=progress.seconds,
                real_time_factor=round(len(waveform) / SAMPLE_RATE / seconds, 2),
            ),
        )

    def close(self) -> None:
        self._beside.shutdown(cancel_futures=True)
        self._parts.recognizer.close()

    def _windows(self, waveform: Waveform, work: Work, progress: Progress) -> tuple[Window, ...]:
        with progress.stage(Stage.VAD):
            work.check()
            return self._parts.vad.windows(waveform)

    def _listen(self, waveform: Waveform, windows: tuple[Window, ...], work: Work, progress: Progress) -> tuple[Heard, Spoken]:
        """ASR here, diarization beside it; when one ends by raising, the other is stopped."""
        if not (work.options.diarize and windows):
            return self._recognize(waveform, windows, work, progress), Spoken()
        stop = _Stop(work)
        diarization = self._beside.submit(self._diarize, waveform, work, progress, stop)
        try:
            heard = self._recognize(waveform, windows, work, progress)
        except BaseException:
            stop.set()
            wait([diarization])
            raise
        return heard, diarization.result()

    def _recognize(self, waveform: Waveform, windows: tuple[Window, ...], work: Work, progress: Progress) -> Heard:
        if Stage.ASR in work.kept:
            return HEARD.validate_json(work.kept[Stage.ASR])
        with progress.stage(Stage.ASR) as advance:
            language, recognitions = self._parts.recognizer.recognize(
                waveform,
                windows,
                self._decode_options(work.options),
                job=f"{work.job_id}/{work.attempt}",
                on_window=lambda done, total: advance(done / total),
                check=work.check,
            )
        heard = Heard(language, recognitions)
        work.keep(Stage.ASR, HEARD.dump_json(heard))
        return heard

    def _decode_options(self, options: JobOptions) -> DecodeOptions:
        return DecodeOptions(
            language=options.language,
            task=options.task,
            initial_prompt=options.initial_prompt,
            beam_size=self._parts.beam_size,
            is_timed=lambda language: options.align and self._alignment(language, options) is None,
        )

    def _alignment(self, language: str, options: JobOptions) -> AlignmentFiles | None:
        """A translation's words are not those that were spoken: forced alignment has nothing to hold on to."""
        return self._parts.aligners.files(language) if options.align and options.task == "transcribe" else None

    def _diarize(self, waveform: Waveform, work: Work, progress: Progress, stop: "_Stop") -> Spoken:
        if Stage.DIARIZATION in work.kept:
            return Spoken(TURNS.validate_json(work.kept[Stage.DIARIZATION]))
        try:
            with progress.stage(Stage.DIARIZATION) as advance:
                turns = self._parts.diarizer.turns(
                    waveform,
                    num_speakers=work.options.num_speakers,
                    min_speakers=work.options.min_speakers,
                    max_speakers=work.options.max_speakers,
                    on_progress=advance,
                    check=stop.check,
                )
        except (OurError, RuntimeError, ValueError) as error:
            return _without_speakers(error, work)
        work.keep(Stage.DIARIZATION, TURNS.dump_json(turns))
        return Spoken(turns)

    def _sentences(self, waveform: Waveform, heard: Heard, work: Work, progress: Progress) -> tuple[TimedSentence, ...]:
        code = heard.language.code
        with progress.stage(Stage.ALIGNMENT):
            if files := self._alignment(code, work.options):
                return self._parts.aligners.get(files, code).sentences(waveform, heard.recognitions, check=work.check)
            language = _text_language(heard.language, work.options)
            return tuple(sentence for recognition in heard.recognitions for sentence in sentences_from_words(recognition, language))

    def _models(self, heard: Heard, options: JobOptions) -> Models:
        files = self._alignment(heard.language.code, options)
        return Models(
            asr=self._parts.asr_name,
            alignment=files.name if files else None,
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
    if work.options.on_diarization_failure == "fail":
        raise EngineFailed(f"diarization failed: {error}", stage=Stage.DIARIZATION) from error
    log.error("diarization failed", job_id=work.job_id, exc_info=error)
    return Spoken(failure=Notice(code="diarization_failed", message="The speakers could not be told apart; the words are complete."))


def _text_language(language: Language, options: JobOptions) -> str:
    return "en" if options.task == "translate" else language.code


def _placed(segment: Segment, work: Work) -> Segment:
    """Moved from the clip's time to the file's, and kept inside it."""
    return segment.model_copy(
        update=_moved(segment, work) | {"words": tuple(word.model_copy(update=_moved(word, work)) for word in segment.words)}
    )


def _moved(timed: Any, work: Work) -> dict[str, float]:
    return {name: round(min(getattr(timed, name) + work.offset_s, work.duration_s), 3) for name in ("start", "end")}


def _turns(turns: tuple[SpeakerTurn, ...], work: Work) -> tuple[Turn, ...]:
    return tuple(Turn(speaker=turn.speaker, **_moved(turn, work)) for turn in turns)


def _speakers(turns: tuple[SpeakerTurn, ...]) -> tuple[Speaker, ...]:
    total_s: dict[str, float] = {}
    for turn in turns:
        total_s[turn.speaker] = total_s.get(turn.speaker, 0.0) + turn.end - turn.start
    return tuple(Speaker(label=label, total_s=round(total_s[label], 3)) for label in sorted(total_s))


def _warnings(windows: tuple[Window, ...], heard: Heard, spoken: Spoken, options: JobOptions) -> tuple[Notice, ...]:
    found = [spoken.failure, _no_speech(windows, heard), _unsure(heard.language), _looped(heard.recognitions), _miscounted(spoken, options)]
    return tuple(notice for notice in found if notice)


def _no_speech(windows: tuple[Window, ...], heard: Heard) -> Notice | None:
    if heard.recognitions:
        return None
    why = "no speech was found in it" if not windows else "what sounded like speech held no words"
    return Notice(code="no_speech", message=f"The transcript is empty: {why}.")


def _unsure(language: Language) -> Notice | None:
    if language.probability is None or not 0 < language.probability < UNSURE_LANGUAGE:
        return None
    return Notice(
        code="language_uncertain",
        message=f"The language was taken for {language.code!r} with probability {language.probability:.2f}: name it with `language`.",
    )


def _looped(recognitions: tuple[Recognition, ...]) -> Notice | None:
    places = [f"{recognition.window.start:.0f} s" for recognition in recognitions if recognition.temperature > 0]
    if not places:
        return None
    return Notice(code="repetition", message=f"Whisper repeated itself and was asked again with sampling near {', '.join(places[:10])}.")


def _miscounted(spoken: Spoken, options: JobOptions) -> Notice | None:
    found = len({turn.speaker for turn in spoken.turns})
    least, most = options.num_speakers or options.min_speakers or 0, options.num_speakers or options.max_speakers or found
    if not spoken.turns or least <= found <= most:
        return None
    return Notice(code="speaker_count", message=f"{found} speakers were found, other than was asked for: the recording may not hold more.")
