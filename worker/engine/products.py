"""What finished stages keep for a retry, as JSON."""

from dataclasses import dataclass

from pydantic import TypeAdapter

from worker.engine.results import Language, Recognition, SpeakerTurn


@dataclass(frozen=True)
class Heard:
    """The product of ASR."""

    language: Language
    recognitions: tuple[Recognition, ...]


HEARD: TypeAdapter[Heard] = TypeAdapter(Heard)
TURNS: TypeAdapter[tuple[SpeakerTurn, ...]] = TypeAdapter(tuple[SpeakerTurn, ...])
