"""What finished stages keep for a retry, as JSON."""

from dataclasses import dataclass
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from core.job import Stage
from core.log import logger
from worker.engine.results import Language, Recognition, SpeakerTurn
from worker.work import Work

log = logger("worker.engine")
Product = TypeVar("Product")


@dataclass(frozen=True)
class Heard:
    """The product of ASR, of no use to a worker with another model."""

    model: str
    language: Language
    recognitions: tuple[Recognition, ...]


HEARD: TypeAdapter[Heard] = TypeAdapter(Heard)
TURNS: TypeAdapter[tuple[SpeakerTurn, ...]] = TypeAdapter(tuple[SpeakerTurn, ...])


def read_product(adapter: TypeAdapter[Product], work: Work, stage: Stage) -> Product | None:
    """None if an earlier attempt kept none, or one that cannot be read: then it is made again."""
    content = work.kept.get(stage)
    if content is None:
        return None
    try:
        return adapter.validate_json(content)
    except ValidationError as error:
        log.warning("stage product unreadable", job_id=work.job_id, stage=stage, faults=error.error_count())  # no text of it in the log
        return None
