"""What a transcript says of its own shortcomings."""

from collections.abc import Sequence
from dataclasses import dataclass

from core.job import JobOptions
from core.transcript import Notice, Segment, Timing
from worker.engine.products import Heard
from worker.engine.results import Language, Recognition, SpeakerTurn, Window
from worker.work import Work

UNSURE_LANGUAGE = 0.5  # below it the transcript says that the language may be wrong
MOST_PLACES = 10
MISSING_S = 1.0  # less than this, or than this share, is how containers count
MISSING_SHARE = 0.02


@dataclass(frozen=True)
class Spoken:
    """Who spoke when; `failure` says why nobody could be told apart."""

    turns: tuple[SpeakerTurn, ...] = ()
    failure: Notice | None = None


@dataclass(frozen=True)
class Outcome:
    windows: Sequence[Window]
    heard: Heard
    spoken: Spoken
    segments: Sequence[Segment]
    decoded_s: float


def notices(outcome: Outcome, work: Work) -> tuple[Notice, ...]:
    found = (
        _truncated(outcome.decoded_s, work),
        outcome.spoken.failure,
        _no_speech(outcome.windows, outcome.heard),
        _unsure(outcome.heard.language),
        _looped(outcome.heard.recognitions, work.offset_s),
        _miscounted(outcome.spoken, work.options),
        _untimed(outcome.segments, work.options),
    )
    return tuple(notice for notice in found if notice)


def _truncated(decoded_s: float, work: Work) -> Notice | None:
    expected_s = min(work.options.clip_end or work.duration_s, work.duration_s) - work.offset_s
    if expected_s - decoded_s < max(MISSING_S, MISSING_SHARE * expected_s):
        return None
    return Notice(code="truncated", message=f"Only {decoded_s:.1f} of {expected_s:.1f} s could be decoded: the recording is damaged.")


def _no_speech(windows: Sequence[Window], heard: Heard) -> Notice | None:
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


def _looped(recognitions: Sequence[Recognition], offset_s: float) -> Notice | None:
    places = [f"{offset_s + recognition.window.start:.0f} s" for recognition in recognitions if recognition.temperature > 0]
    if not places:
        return None
    where = ", ".join(places[:MOST_PLACES])
    return Notice(code="repetition", message=f"Whisper repeated itself and was asked again with sampling near {where}.")


def _miscounted(spoken: Spoken, options: JobOptions) -> Notice | None:
    found = len({turn.speaker for turn in spoken.turns})
    least, most = options.num_speakers or options.min_speakers or 0, options.num_speakers or options.max_speakers or found
    if not spoken.turns or least <= found <= most:
        return None
    return Notice(code="speaker_count", message=f"{found} speakers were found, other than was asked for: the recording may not hold more.")


def _untimed(segments: Sequence[Segment], options: JobOptions) -> Notice | None:
    """Words without letters are interpolated between their neighbours, which is nothing to speak of."""
    bare = [segment for segment in segments if all(word.timing == Timing.INTERPOLATED for word in segment.words)]
    if not options.align or not bare:
        return None
    return Notice(code="times_interpolated", message=f"In {len(bare)} segments no word could be timed: their times are interpolated.")
