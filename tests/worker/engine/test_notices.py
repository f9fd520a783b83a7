"""What a transcript says of its own shortcomings."""

import pytest

from core.job import JobOptions
from worker.engine.notices import Outcome, Spoken, notices
from worker.engine.products import Heard
from worker.engine.results import Language, Recognition, Window
from worker.work import Work

SAMPLED = Recognition(Window(4.0, 9.0), " again", -0.5, 0.0, 1.0, (), temperature=0.4)


@pytest.mark.parametrize(("clip_start", "place"), [(None, "4 s"), (600.0, "604 s")])
def test_a_repetition_is_placed_by_the_time_of_the_recording(clip_start: float | None, place: str) -> None:
    offset_s = clip_start or 0.0
    work = Work("job", 1, JobOptions(clip_start=clip_start), b"", offset_s, offset_s + 10.0, {}, _nothing, _nothing, _nothing)
    heard = Heard("base", Language("en", None), (SAMPLED,))
    (notice,) = notices(Outcome((SAMPLED.window,), heard, Spoken(), (), 10.0), work)
    assert notice.code == "repetition"
    assert notice.message.endswith(f"near {place}.")


def _nothing(*_: object) -> None:
    pass
