import json
import math

import pytest
from pydantic import ValidationError

from core.render import Format, render
from core.transcript import Models, Run, Segment, Speaker, Timing, Transcript, Turn, Word


def segment(number: int, start: float, end: float, text: str, speaker: str | None) -> Segment:
    word = Word(word=text, start=start, end=end, score=0.9, speaker=speaker, timing=Timing.ALIGNED)
    return Segment(
        id=number,
        start=start,
        end=end,
        text=text,
        speaker=speaker,
        avg_logprob=-0.1,
        no_speech_prob=0.0,
        compression_ratio=1.0,
        words=(word,),
    )


TRANSCRIPT = Transcript(
    language="en",
    language_probability=0.99,
    duration_s=3725.5,
    segments=(
        segment(0, 0.5, 1.25, "Hello.", "SPEAKER_00"),
        segment(1, 1.5, 2.0, "How are you?", "SPEAKER_00"),
        segment(2, 3723.0041, 3725.5, "Fish & <chips>.", "SPEAKER_01"),
    ),
    turns=(Turn(start=0.5, end=2.0, speaker="SPEAKER_00"), Turn(start=3723, end=3725.5, speaker="SPEAKER_01")),
    speakers=(Speaker(label="SPEAKER_00", total_s=1.5), Speaker(label="SPEAKER_01", total_s=2.5)),
    warnings=(),
    models=Models(asr="base", alignment=None, segmentation=None, embedding=None),
    run=Run(runner="local", attempt=1, device="cpu", stages_s={"asr": 1.0}, real_time_factor=3.0),
)
EMPTY = TRANSCRIPT.model_copy(update={"segments": (), "turns": (), "speakers": ()})


def test_json_is_the_canonical_transcript() -> None:
    assert Transcript.model_validate_json(render(TRANSCRIPT, Format.JSON)) == TRANSCRIPT
    assert json.loads(render(TRANSCRIPT, Format.JSON))["schema"] == "spillway.transcript.v1"


@pytest.mark.parametrize("figure", [math.nan, math.inf])
def test_no_transcript_is_made_that_could_not_be_read_again(figure: float) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        Segment(**segment(0, 0.5, 1.25, "Hello.", None).model_dump() | {"avg_logprob": figure})


def test_text_has_a_paragraph_per_speaker() -> None:
    assert render(TRANSCRIPT, Format.TXT) == "SPEAKER_00: Hello. How are you?\nSPEAKER_01: Fish & <chips>.\n"


def test_srt_counts_from_one_and_writes_commas() -> None:
    assert render(TRANSCRIPT, Format.SRT) == (
        "1\n00:00:00,500 --> 00:00:01,250\n[SPEAKER_00] Hello.\n\n"
        "2\n00:00:01,500 --> 00:00:02,000\n[SPEAKER_00] How are you?\n\n"
        "3\n01:02:03,004 --> 01:02:05,500\n[SPEAKER_01] Fish & <chips>.\n"
    )


@pytest.mark.parametrize("form", [Format.TXT, Format.SRT, Format.VTT, Format.TSV])
def test_a_text_with_breaks_in_it_stays_one_line(form: Format) -> None:
    broken = segment(0, 0.5, 1.25, "One\ttwo\n\n3 --> 4\u2028five.", None)
    whole = segment(0, 0.5, 1.25, "One two 3 -> 4 five." if form == Format.SRT else "One two 3 --> 4 five.", None)
    shown, meant = (render(TRANSCRIPT.model_copy(update={"segments": (one,)}), form) for one in (broken, whole))
    assert shown == meant


def test_vtt_names_voices_and_escapes_markup() -> None:
    shown = render(TRANSCRIPT, Format.VTT)
    assert shown.startswith("WEBVTT\n\n00:00:00.500 --> 00:00:01.250\n<v SPEAKER_00>Hello.\n")
    assert "<v SPEAKER_01>Fish &amp; &lt;chips&gt;.\n" in shown


def test_tsv_is_in_milliseconds() -> None:
    assert render(TRANSCRIPT, Format.TSV).splitlines()[:2] == ["start\tend\tspeaker\ttext", "500\t1250\tSPEAKER_00\tHello."]


def test_rttm_gives_start_and_length_of_turns() -> None:
    assert render(TRANSCRIPT, Format.RTTM).splitlines()[0] == "SPEAKER audio 1 0.500 1.500 <NA> <NA> SPEAKER_00 <NA> <NA>"


def test_an_empty_transcript_is_valid_in_every_format() -> None:
    assert {form: render(EMPTY, form) for form in Format if form is not Format.JSON} == {
        Format.TXT: "", Format.SRT: "", Format.VTT: "WEBVTT\n", Format.TSV: "start\tend\tspeaker\ttext\n", Format.RTTM: "",
    }  # fmt: skip
