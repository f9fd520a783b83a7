"""Where one job's word times come from: forced alignment, else Whisper's attention, else interpolation."""

from collections.abc import Callable

from core.job import JobOptions
from worker.engine.aligners import Aligners, NamedAligner
from worker.engine.products import Heard
from worker.engine.results import TimedSentence, Waveform
from worker.engine.sentences import sentences_from_words


class Timekeeper:
    """Decides once per job and language, so that what was decoded, aligned and reported is the same."""

    def __init__(self, aligners: Aligners, options: JobOptions) -> None:
        self._aligners, self._options = aligners, options
        self._found: dict[str, NamedAligner | None] = {}

    def wants_attention(self, language: str) -> bool:
        return self._options.align and self._aligner(language) is None

    def model(self, language: str) -> str | None:
        aligner = self._aligner(language)
        return aligner.name if aligner else None

    def sentences(
        self, waveform: Waveform, heard: Heard, *, on_progress: Callable[[float], None], check: Callable[[], None]
    ) -> tuple[TimedSentence, ...]:
        aligner = self._aligner(heard.language.code)
        if aligner:
            return aligner.aligner.sentences(waveform, heard.recognitions, on_progress=on_progress, check=check)
        language = "en" if self._options.task == "translate" else heard.language.code
        return tuple(sentence for recognition in heard.recognitions for sentence in sentences_from_words(recognition, language))

    def _aligner(self, language: str) -> NamedAligner | None:
        """A translation's words are not those that were spoken: forced alignment has nothing to hold on to."""
        if not self._options.align or self._options.task == "translate":
            return None
        if language not in self._found:
            self._found[language] = self._aligners.get(language)
        return self._found[language]
