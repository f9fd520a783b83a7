"""The field's measures, on plain values."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

import jiwer
from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate


def plain(text: str) -> str:
    """Lower case without punctuation, as transcripts are compared."""
    return " ".join(re.sub(r"[^\w\s']", " ", text.lower()).split())


def word_error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    return float(jiwer.wer([plain(text) for text in references], [plain(text) for text in hypotheses]))


def diarization_error_rate(reference: Sequence[dict[str, Any]], hypothesis: Sequence[dict[str, Any]], duration_s: float) -> float:
    """No collar, overlap scored, over the whole recording."""
    whole = Timeline([Segment(0, duration_s)])
    return float(DiarizationErrorRate(collar=0.0, skip_overlap=False)(_annotation(reference), _annotation(hypothesis), uem=whole))


def onset_errors_s(reference: Sequence[dict[str, Any]], hypothesis: Sequence[dict[str, Any]]) -> list[float]:
    """Hypothesis minus reference onset, for each reference word that was recognized."""
    ours, theirs = [plain(word["word"]) for word in reference], [plain(word["word"]) for word in hypothesis]
    blocks = SequenceMatcher(a=ours, b=theirs, autojunk=False).get_matching_blocks()
    return [hypothesis[b.b + i]["start"] - reference[b.a + i]["start"] for b in blocks for i in range(b.size)]


def _annotation(turns: Sequence[dict[str, Any]]) -> Annotation:
    annotation = Annotation()
    for number, turn in enumerate(turns):
        annotation[Segment(turn["start"], turn["end"]), number] = turn["speaker"]
    return annotation
