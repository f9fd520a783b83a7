"""Speech to text: a job's windows through Whisper, in batches that are shared with other jobs."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from faster_whisper.tokenizer import Tokenizer

from core.errors import InvalidRequest
from worker.engine import attention_timing
from worker.engine.batching import Batcher
from worker.engine.features import Features, cut, frames, log_mel
from worker.engine.results import Language, Recognition, Waveform, Window
from worker.engine.tally import Tally
from worker.engine.whisper import MAX_LENGTH, Encoded, Encoding, Heard, Passage, Whisper, shape_of_prompt

Result = TypeVar("Result")
Check = Callable[[], None]

DETECTION_WINDOWS = 3  # at most 90 s of speech are heard before the language is decided
PROMPT_TOKENS = MAX_LENGTH // 2 - 1  # 223: what Whisper leaves room for before <|startoftranscript|>
NO_SPEECH_LIMIT = 0.6  # openai/whisper's rule for silence: this probable, …
SILENCE_LOGPROB = -1.0  # … and the words this improbable
# Sure silence, whatever the words: a lone " you" has a high probability. Of speech (LibriVox, the sample) no window passed 0.07, of
# silence, noise and tones heard as words with a log-probability above -1 all passed 0.9, with base and tiny.en.
SURE_SILENCE = 0.85
AHEAD_IN_BATCHES = 2  # of one job: the next batch fills while one runs, and hours of features do not pile up in memory
CHECK_EVERY_S = 0.25
ANOTHER_MODEL = "whoever runs this service can set SPILLWAY_ASR_MODEL to a multilingual one"


@dataclass(frozen=True)
class DecodeOptions:
    language: str | None = None  # Whisper's code; None: detect it
    task: Literal["transcribe", "translate"] = "transcribe"
    initial_prompt: str | None = None
    beam_size: int = 5
    is_timed: Callable[[str], bool] = lambda _: False  # by language: are word times wanted from Whisper's own attention
    filters: bool = True  # off: what WhisperX would give, loops and invented text included


@dataclass(frozen=True)
class _Job:
    name: str
    waveform: Waveform
    windows: Sequence[Window]
    options: DecodeOptions
    check: Check


class SpeechRecognizer:
    """One Whisper model on one device for all jobs; thread-safe."""

    def __init__(
        self,
        folder: Path,
        *,
        device: str,
        compute_type: str,
        batch_size: int,
        cpu_threads: int = 0,
        release_memory: Callable[[], None] = lambda: None,
    ) -> None:
        """Raises ModelMissing. `release_memory` is called when the device has run out of it."""
        self._whisper = Whisper(folder, device=device, compute_type=compute_type, cpu_threads=cpu_threads)
        self._detection: Batcher[Features, Encoding] = Batcher(
            "language", self._whisper.detect, batch_size=batch_size, release_memory=release_memory
        )
        self._decoding: Batcher[Passage, Heard] = Batcher(
            "asr", self._whisper.decode, batch_size=batch_size, key=shape_of_prompt, release_memory=release_memory
        )

    def recognize(
        self,
        waveform: Waveform,
        windows: Sequence[Window],
        options: DecodeOptions,
        *,
        job: str,
        on_window: Callable[[int, int], None],
        check: Check,
    ) -> tuple[Language, tuple[Recognition, ...]]:
        """One recognition per window, less those without words.

        `on_window(done, total)` reports progress. `check` is called several times a second and stops the job by raising;
        its windows then leave the queue. `job` must be unique among the jobs in flight. Raises InvalidRequest for what
        the model cannot do, OutOfMemory.
        """
        self.validate(options)
        work = _Job(job, waveform, windows, options, check)
        try:
            language, encoded = self._language(work)
            return language, tuple(self._recognitions(work, language, encoded, on_window))
        finally:
            self._detection.drop(job)
            self._decoding.drop(job)

    def validate(self, options: DecodeOptions) -> None:
        """Raises InvalidRequest."""
        if self._whisper.is_multilingual:
            if options.language is not None and not self._whisper.knows(options.language):
                raise InvalidRequest(
                    f"the model knows no language {options.language!r}: leave it out, and the nearest is found", field="language"
                )
        elif options.language not in (None, "en"):
            raise InvalidRequest(f"the model knows English only, not {options.language!r}: {ANOTHER_MODEL}", field="language")
        elif options.task == "translate":
            raise InvalidRequest(f"the model knows English only and cannot translate: {ANOTHER_MODEL}", field="task")

    @property
    def tallies(self) -> tuple[Tally, ...]:
        return self._detection.tally, self._decoding.tally

    def close(self) -> None:
        self._detection.close()
        self._decoding.close()

    def _language(self, work: _Job) -> tuple[Language, list[Encoded]]:
        """The language, and the first windows as the encoder gave them where they were needed to detect it."""
        if not self._whisper.is_multilingual:
            return Language("en", None), []
        if work.options.language is not None:
            return Language(work.options.language, None), []
        if not work.windows:
            return Language("en", 0.0), []  # nothing was said, in no language
        return self._detect(work, work.windows[:DETECTION_WINDOWS])

    def _detect(self, work: _Job, windows: Sequence[Window]) -> tuple[Language, list[Encoded]]:
        with self._detection.feeding():
            features = [log_mel(cut(work.waveform, window), self._whisper.n_mels) for window in windows]
            futures = [self._detection.submit(item, job=work.name) for item in features]
        encodings = [_result(future, work.check) for future in futures]
        return _most_probable(windows, encodings), [encoding.encoded for encoding in encodings]

    def _recognitions(
        self, work: _Job, language: Language, encoded: list[Encoded], on_window: Callable[[int, int], None]
    ) -> Iterator[Recognition]:
        tokenizer = Tokenizer(self._whisper.tokenizer, self._whisper.is_multilingual, task=work.options.task, language=language.code)
        passages = self._passages(work, tokenizer, encoded)
        for index, (passage, heard) in enumerate(self._heard(work, passages)):
            if not (work.options.filters and _is_invented(heard)):
                yield _recognition(work.windows[index], passage, heard, tokenizer)
            on_window(index + 1, len(work.windows))

    def _passages(self, work: _Job, tokenizer: Tokenizer, encoded: list[Encoded]) -> Iterator[Passage]:
        prompt, start = _prompt(tokenizer, work.options.initial_prompt), tuple(tokenizer.sot_sequence)
        timed = work.options.is_timed(tokenizer.language_code)
        for index, window in enumerate(work.windows):
            samples = cut(work.waveform, window)
            yield Passage(
                features=log_mel(samples, self._whisper.n_mels),
                encoded=encoded[index] if index < len(encoded) else None,
                frames=frames(samples),
                prompt=prompt,
                start=start,
                beam_size=work.options.beam_size,
                timed=timed,
                resample_loops=work.options.filters,
            )

    def _heard(self, work: _Job, passages: Iterator[Passage]) -> Iterator[tuple[Passage, Heard]]:
        """In order, with a bounded number of passages in flight."""
        in_flight: deque[tuple[Passage, Future[Heard]]] = deque()
        with self._decoding.feeding():
            for passage in passages:
                work.check()
                in_flight.append((passage, self._decoding.submit(passage, job=work.name)))
                if len(in_flight) >= AHEAD_IN_BATCHES * self._decoding.batch_size:
                    first, future = in_flight.popleft()
                    yield first, _result(future, work.check)
        for passage, future in in_flight:
            yield passage, _result(future, work.check)


def _result(future: Future[Result], check: Check) -> Result:
    while True:
        check()
        if wait([future], timeout=CHECK_EVERY_S).done:
            return future.result()


def _prompt(tokenizer: Tokenizer, initial_prompt: str | None) -> tuple[int, ...]:
    """The end of a long initial prompt is kept; no timestamps."""
    start = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
    if initial_prompt is None or not initial_prompt.strip():
        return tuple(start)
    return (tokenizer.sot_prev, *tokenizer.encode(" " + initial_prompt.strip())[-PROMPT_TOKENS:], *start)


def _most_probable(windows: Sequence[Window], encodings: list[Encoding]) -> Language:
    """Probabilities of the windows, averaged by their length."""
    lengths = [window.end - window.start for window in windows]
    codes = encodings[0].languages
    mean = {
        code: sum(length * encoding.languages[code] for length, encoding in zip(lengths, encodings, strict=True)) / sum(lengths)
        for code in codes
    }
    code = max(mean, key=lambda code: mean[code])
    return Language(code, mean[code])


def _is_invented(heard: Heard) -> bool:
    silent = heard.no_speech_prob > NO_SPEECH_LIMIT and heard.avg_logprob < SILENCE_LOGPROB
    return silent or heard.no_speech_prob > SURE_SILENCE or not heard.text.strip()


def _recognition(window: Window, passage: Passage, heard: Heard, tokenizer: Tokenizer) -> Recognition:
    return Recognition(
        window=window,
        text=heard.text,
        avg_logprob=heard.avg_logprob,
        no_speech_prob=heard.no_speech_prob,
        compression_ratio=heard.compression_ratio,
        words=attention_timing.words(window, passage, heard, tokenizer) if passage.timed else (),
        temperature=heard.temperature,
    )
