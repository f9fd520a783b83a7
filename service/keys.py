"""`python -m service.keys create|list|revoke`: API keys by hand, on the machine that the service runs on."""

import argparse
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from core.api_keys import ApiKeys, KeyLimits, KeyRecord, Scope, key_secrets
from core.errors import SpillwayError
from core.moments import rfc3339
from core.redis_steps import connect
from core.settings import MOST_PER_KEY, MOST_PER_MINUTE, Settings

out, err = Console(), Console(stderr=True)


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    try:
        settings = Settings.from_environment()
        with connect(settings.redis_url) as redis:
            COMMANDS[asked.command](ApiKeys(redis, key_secrets(settings)), asked)
    except SpillwayError as error:
        _say(err, f"error: {error}")
        return 1
    except BrokenPipeError:  # whoever read us, `head` say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains of it once more at its end
        return 1
    return 0


def create(keys: ApiKeys, asked: Namespace) -> None:
    limits = KeyLimits(requests_per_minute=asked.requests_per_minute, max_jobs=asked.max_jobs, high_priority=asked.high_priority)
    key = keys.create(asked.name, Scope(asked.scope), limits)
    _say(err, "shown this once and kept nowhere: hand it over now; the client reads it from SPILLWAY_API_KEY")
    _say(out, key.text)


def show(keys: ApiKeys, asked: Namespace) -> None:  # noqa: ARG001 - all commands are called alike
    """A table for a terminal; for a pipe a line per key, its fields parted by tabs."""
    rows = [_row(record) for record in keys.records()]
    if not out.is_terminal:
        out.file.writelines("\t".join(row) + "\n" for row in rows)
        return
    table = Table("id", "name", "scope", "created", "revoked", "requests/min", "jobs", "high priority", box=None)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    out.print(table)


def revoke(keys: ApiKeys, asked: Namespace) -> None:
    record = keys.revoke(asked.id)
    _say(out, f"revoked {record.id} ({record.name}): refused from now on; its jobs stay, and admin keys see them")


COMMANDS: dict[str, Callable[[ApiKeys, Namespace], None]] = {"create": create, "list": show, "revoke": revoke}


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _row(record: KeyRecord) -> tuple[str, ...]:
    revoked = rfc3339(record.revoked_at) if record.revoked_at is not None else ""
    limits = (_limit_cell(limit) for limit in (record.limits.requests_per_minute, record.limits.max_jobs))
    return record.id, record.name, record.scope, rfc3339(record.created_at), revoked, *limits, "yes" if record.goes_first else ""


def _limit_cell(limit: int | None) -> str:
    """Nothing where the settings say it."""
    return "" if limit is None else str(limit)


def _up_to(most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) > most:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to {most}")
        return int(text)

    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.keys", description="API keys of this service.")
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("create", help="make a key and show it, once")
    new.add_argument("name", help="whose it is, for the list")
    new.add_argument("--scope", choices=list(Scope), default=Scope.SUBMIT, help="submit: its own jobs (default); admin: the jobs of all")
    new.add_argument("--requests-per-minute", type=_up_to(MOST_PER_MINUTE), metavar="N", help="0: no limit; as the settings say if absent")
    new.add_argument(
        "--max-jobs", type=_up_to(MOST_PER_KEY), metavar="N", help="jobs that may wait and run; 0: no limit; as the settings say if absent"
    )
    new.add_argument(
        "--high-priority", action=argparse.BooleanOptionalAction, help="whether it may send jobs of priority high; admin keys may if absent"
    )
    commands.add_parser("list", help="show all keys, without their secrets")
    commands.add_parser("revoke", help="refuse a key from now on").add_argument("id", help="the key's id, as `list` shows it")
    return parser


if __name__ == "__main__":
    sys.exit(main())
