"""Options from form fields; pydantic's complaints as refusals that name the field and echo nothing."""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from core.errors import InvalidRequest, UnknownOption
from core.job import JobOptions

BESIDE = ("source", "callback_url", "output")  # what a request may hold beside options
KNOWN = f"a recording comes as `file` or its URL as `source`; the options are {', '.join((*JobOptions.model_fields, *BESIDE[1:]))}"

# Names of the same in the APIs that people come from: OpenAI's, AssemblyAI's, Deepgram's, Bazarr's.
ELSEWHERE = {
    "audio": "file", "audio_file": "file", "audio_url": "source", "url": "source",
    "webhook_url": "callback_url", "callback": "callback_url",
    "speaker_labels": "diarize", "speakers_expected": "num_speakers", "language_code": "language", "prompt": "initial_prompt",
}  # fmt: skip
EXAMPLES = {"body": '{"source": "https://example.org/talk.mp3"}', "metadata": '{"order": 7}'}


def check_known(name: str) -> None:
    """Raises `UnknownOption`."""
    if name in BESIDE or name in JobOptions.model_fields:
        return
    near = [ELSEWHERE[name]] if name in ELSEWHERE else get_close_matches(name, [*JobOptions.model_fields, "file", *BESIDE], n=1)
    hint = f"did you mean {near[0]!r}?" if near else KNOWN
    raise UnknownOption(f"unknown field {shown(name)!r}: {hint}", field=shown(name))


def options_of(fields: Mapping[str, str]) -> JobOptions:
    """An empty field counts as absent, as an empty box of a form does. Raises `InvalidRequest`."""
    given: dict[str, Any] = {name: value for name, value in fields.items() if value}
    if "metadata" in given:
        given["metadata"] = json_object(given["metadata"], "metadata")
    return checked_options(given)


def checked_options(given: Mapping[str, Any]) -> JobOptions:
    """From the fields of either kind of request. Raises `InvalidRequest`."""
    try:
        return JobOptions.model_validate({name: value for name, value in given.items() if name not in BESIDE})
    except ValidationError as error:
        raise refusal(error) from None


def refusal(error: ValidationError) -> InvalidRequest:
    """The first complaint, by the name of its field."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    field = shown(".".join(str(part) for part in first["loc"][:1]))
    if first["type"] == "extra_forbidden":
        return UnknownOption(f"unknown parameter {field!r}: /docs shows those of this address", field=field)
    if first["type"] == "model_type":
        return InvalidRequest("send a JSON object such as {}, with Content-Type: application/json")
    said = first["msg"].removeprefix("Value error, ")
    return InvalidRequest(f"{field}: {said}" if field else said, field=field or None)


def shown(text: str, *, most: int = 60) -> str:
    """A client's own text, fit to stand in a message."""
    return "".join(character for character in text if character.isprintable())[:most]


def json_object(text: str | bytes, what: str) -> dict[str, Any]:
    """`what` names the text in the complaint. Raises `InvalidRequest`."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_once_each)
        # Half a surrogate pair and 1e999 parse, but cannot be written again.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise InvalidRequest(
            f"{what}: not valid JSON, or with a name twice, a number too large, or nested too deeply", field=what
        ) from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{what}: must be a JSON object such as {EXAMPLES[what]}", field=what)
    return value


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name twice")
    return dict(pairs)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
