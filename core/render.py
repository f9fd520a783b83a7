"""The formats a transcript is read in. The canonical JSON is what is kept; everything here is rendered from it on read."""

import re
from collections.abc import Callable
from enum import StrEnum
from itertools import groupby

from core.transcript import Segment, Transcript


class Format(StrEnum):
    JSON = "json"
    TXT = "txt"
    SRT = "srt"
    VTT = "vtt"
    TSV = "tsv"
    RTTM = "rttm"


MEDIA_TYPES = {
    Format.JSON: "application/json",
    Format.TXT: "text/plain; charset=utf-8",
    Format.SRT: "application/x-subrip; charset=utf-8",
    Format.VTT: "text/vtt; charset=utf-8",
    Format.TSV: "text/tab-separated-values; charset=utf-8",
    Format.RTTM: "text/plain; charset=utf-8",
}
BREAKS = re.compile(r"(?<!\s)\s*[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]\s*")  # in a text they would end its line, cue or column


def render(transcript: Transcript, form: Format) -> str:
    return _RENDERERS[form](transcript)


def _json(transcript: Transcript) -> str:
    return transcript.model_dump_json()


def _txt(transcript: Transcript) -> str:
    """One paragraph per speaker's run of segments; plain lines where nobody was told apart."""
    paragraphs = [
        (f"{speaker}: " if speaker else "") + " ".join(map(_line, run))
        for speaker, run in groupby(transcript.segments, key=lambda segment: segment.speaker)
    ]
    return "".join(f"{paragraph}\n" for paragraph in paragraphs)


def _srt(transcript: Transcript) -> str:
    cues = [
        f"{number}\n{_clock(segment.start, ',')} --> {_clock(segment.end, ',')}\n{_prefixed(segment)}\n"
        for number, segment in enumerate(transcript.segments, start=1)
    ]
    return "\n".join(cues)


def _vtt(transcript: Transcript) -> str:
    cues = [f"\n{_clock(segment.start, '.')} --> {_clock(segment.end, '.')}\n{_voiced(segment)}\n" for segment in transcript.segments]
    return "WEBVTT\n" + "".join(cues)


def _tsv(transcript: Transcript) -> str:
    rows = [
        f"{round(segment.start * 1000)}\t{round(segment.end * 1000)}\t{segment.speaker or ''}\t{_line(segment)}\n"
        for segment in transcript.segments
    ]
    return "start\tend\tspeaker\ttext\n" + "".join(rows)


def _rttm(transcript: Transcript) -> str:
    """NIST's rich transcription time marks, version 1.3."""
    return "".join(
        f"SPEAKER audio 1 {turn.start:.3f} {turn.end - turn.start:.3f} <NA> <NA> {turn.speaker} <NA> <NA>\n" for turn in transcript.turns
    )


def _prefixed(segment: Segment) -> str:
    text = _line(segment).replace("-->", "->")  # which would be read as a cue's times
    return f"[{segment.speaker}] {text}" if segment.speaker else text


def _voiced(segment: Segment) -> str:
    text = _line(segment).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"<v {segment.speaker}>{text}" if segment.speaker else text


def _line(segment: Segment) -> str:
    return BREAKS.sub(" ", segment.text)


def _clock(seconds: float, point: str) -> str:
    ms = round(seconds * 1000)
    hours, ms = divmod(ms, 3_600_000)
    minutes, ms = divmod(ms, 60_000)
    return f"{hours:02d}:{minutes:02d}:{ms // 1000:02d}{point}{ms % 1000:03d}"


_RENDERERS: dict[Format, Callable[[Transcript], str]] = {
    Format.JSON: _json,
    Format.TXT: _txt,
    Format.SRT: _srt,
    Format.VTT: _vtt,
    Format.TSV: _tsv,
    Format.RTTM: _rttm,
}
