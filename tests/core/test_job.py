import json
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from core.job import Job, JobOptions, JobState, NewJob
from core.transcript import Transcript


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"language": "English"}, "unknown language 'English': did you mean 'en'"),
        ({"language": "pt_BR"}, "unknown language 'pt_BR': did you mean 'pt'"),
        ({"language": "zh-Hant-TW"}, "did you mean 'zh'"),
        ({"language": "auto"}, "or none to have it detected"),
        ({"min_speakers": 3, "max_speakers": 2}, "min_speakers is greater"),
        ({"num_speakers": 2, "max_speakers": 3}, "cannot be combined"),
        ({"clip_start": 5, "clip_end": 5}, "clip_start is not before"),
        ({"num_speakers": 0}, "greater than or equal to 1"),
        ({"metadata": {"a": "x" * 20_000}}, "larger than 16,000 characters"),
        ({"metadata": {"a": json.loads("[" * 60 + "]" * 60)}}, "nested deeper"),
        ({"task": "summarise"}, "'transcribe' or 'translate'"),
        ({"speakers": 2}, "Extra inputs are not permitted"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_with_the_reason(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        JobOptions(**options)


@pytest.mark.parametrize(
    ("clip", "work_s"), [({}, 100), ({"clip_start": 30}, 70), ({"clip_end": 30}, 30), ({"clip_start": 90, "clip_end": 500}, 10)]
)
def test_a_job_costs_its_clip(clip: dict[str, float], work_s: float) -> None:
    job = Job(
        id="a", key_id="k", state=JobState.QUEUED, seq=1, created_at=0, duration_s=100, filename="f", input_key="i", input_bytes=1,
        input_sha256="0", options=JobOptions(**clip),
    )  # fmt: skip
    assert job.work_s == work_s


def test_three_states_are_the_end() -> None:
    assert {state for state in JobState if state.is_terminal} == {"succeeded", "failed", "cancelled"}


@pytest.mark.parametrize("kind", [JobOptions, NewJob, Transcript])
def test_what_cannot_be_read_is_not_in_the_error_that_says_so(kind: type[BaseModel]) -> None:
    """Errors come into logs, with whatever caused them: no words of a recording, no prompt, no file's name."""
    with pytest.raises(ValidationError) as refused:
        kind.model_validate({"initial_prompt": ["Wendelgard"], "filename": ["Wendelgard"], "segments": ["Wendelgard"]})
    assert "Wendelgard" not in str(refused.value)
