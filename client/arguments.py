"""The command line of `spillway`."""

from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction
from pathlib import Path
from typing import Any

FORMATS = ("json", "txt", "srt", "vtt", "tsv", "rttm")
KEY = "A service that needs an API key finds it in the variable SPILLWAY_API_KEY."
GS = "gs://"
PREFIX = "a gs:// prefix: the service writes the transcript there, in every format"
STATES = ("queued", "running", "succeeded", "failed", "cancelled")

# The service's options for a job, as they are given here; its documentation says what they do.
OPTIONS: dict[str, dict[str, Any]] = {
    "language": {"help": "language code such as en; detected if absent"},
    "task": {"choices": ("transcribe", "translate"), "help": "translate gives English text"},
    "model": {"help": "the model that is expected to run"},
    "diarize": {"action": BooleanOptionalAction, "help": "tell speakers apart (default)"},
    "num_speakers": {"type": int, "help": "number of speakers, when known"},
    "min_speakers": {"type": int, "help": "least number of speakers"},
    "max_speakers": {"type": int, "help": "most speakers"},
    "align": {"action": BooleanOptionalAction, "help": "time every word (default)"},
    "initial_prompt": {"help": "text that tells names and style"},
    "priority": {"choices": ("high", "normal", "low"), "help": "which queue to wait in"},
    "local_only": {"action": BooleanOptionalAction, "help": "never run outside the box"},
    "metadata": {"help": "a JSON object, handed back unchanged"},
    "clip_start": {"type": float, "help": "transcribe from here, in seconds"},
    "clip_end": {"type": float, "help": "transcribe up to here, in seconds"},
    "on_diarization_failure": {"choices": ("warn", "fail"), "help": "words without speakers, or a failed job"},
    "callback_url": {"help": "a URL that hears, signed, how the job ended"},
}

BY_ID = (
    ("status", "show a job"),
    ("get", "print a transcript"),
    ("deliveries", "show what became of a job's webhook and output"),
    ("cancel", "cancel a job"),
    ("delete", "delete a job"),
)


def parser() -> ArgumentParser:
    root = ArgumentParser(prog="spillway", description="Speech to text by a Spillway service.", epilog=KEY)
    url = ArgumentParser(add_help=False)
    url.add_argument("--url", help="the service; SPILLWAY_URL or http://127.0.0.1:8000 if absent")
    commands = root.add_subparsers(dest="command", required=True)

    def command(name: str, help: str) -> ArgumentParser:
        return commands.add_parser(name, help=help, description=help, parents=[url])

    for name, help in (("transcribe", "send a recording, wait, print the transcript"), ("submit", "send a recording, print the job's id")):
        _add_recording(command(name, help))
    _add_output(commands.choices["transcribe"], type=_file_or_prefix, help=f"write the transcript to this file; {PREFIX}")
    commands.choices["submit"].add_argument("--output", type=_prefix, metavar="gs://…", help=PREFIX)
    for name, help in BY_ID:
        command(name, help).add_argument("id", help="the job's id")
    _add_output(commands.choices["get"], type=Path, help="write the transcript to this file")
    _add_filters(command("jobs", "list jobs, newest first"))
    command("queue", "show the queue and the workers")
    return root


def _add_recording(command: ArgumentParser) -> None:
    command.add_argument("recording", type=_recording, help="the recording: a file, or a URL that the service fetches")
    for name, settings in OPTIONS.items():
        command.add_argument(f"--{name.replace('_', '-')}", dest=name, default=None, **settings)


def _recording(given: str) -> Path | str:
    return given if "://" in given else Path(given)


def _file_or_prefix(given: str) -> Path | str:
    return given if given.startswith(GS) else Path(given)


def _prefix(given: str) -> str:
    if not given.startswith(GS):
        raise ArgumentTypeError(f"{given!r} is no gs:// prefix; for a file use `spillway get` once the job has ended, or `transcribe`")
    return given


def _add_output(command: ArgumentParser, **output: Any) -> None:
    command.add_argument("--format", choices=FORMATS, help="txt if absent, or what the output file's name says")
    command.add_argument("--output", **output)


def _add_filters(command: ArgumentParser) -> None:
    command.add_argument("--limit", type=int, default=50, help="most jobs shown")
    command.add_argument("--cursor", help="where the page before ended")
    command.add_argument("--state", choices=STATES, help="only jobs in this state")
