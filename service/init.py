"""`python -m service.init DIR [--keys-folder DIR] [--signing-folder DIR]`: the secrets of a new installation, each made once, in
files that only their owner reads.

Compose runs it before everything else. What is there already stays as it is, so it may be run, and be cut short, at any time.
"""

import argparse
import os
import re
import secrets
import sys
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from core import log
from core.api_keys import FILE_NAMES, new_key
from core.errors import SettingsError

logger = log.logger("init")
REDIS_CONF, REDIS_URL, WEBHOOK_SECRET = "redis.conf", "redis_url", "webhook_secret"
API_KEY_SECRET, API_KEY = FILE_NAMES["api_key_secret"], FILE_NAMES["first_api_key"]
PASSWORDS = {REDIS_CONF: re.compile(r"^requirepass (\S+)$", re.MULTILINE), REDIS_URL: re.compile(r"^redis://:([^@\s]+)@")}
SECRET_BYTES = 32


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _parser().parse_args(arguments)
    log.configure("init", level="info", form="console")
    try:
        fill(asked.folder.absolute(), f"{asked.redis_host}:{asked.redis_port}", _places(asked))
    except SettingsError as error:
        logger.error("failed", reason=str(error))
        return 1
    return 0


@dataclass(frozen=True)
class Places:
    """Folders that not every service reads."""

    keys: Path  # the service alone
    signing: Path  # the service and the dispatcher


def _places(asked: argparse.Namespace) -> Places:
    return Places((asked.keys_folder or asked.folder).absolute(), (asked.signing_folder or asked.folder).absolute())


def fill(folder: Path, redis_address: str, places: Places) -> None:
    """Raises `SettingsError` when a folder cannot be written, or what is in it does not fit together."""
    contents: dict[Path, Callable[[], str]] = {
        folder / REDIS_CONF: lambda: f"# The password of Spillway's Redis; {REDIS_URL} holds the same.\nrequirepass {_password(folder)}\n",
        folder / REDIS_URL: lambda: f"redis://:{_password(folder)}@{redis_address}/0\n",
        places.keys / API_KEY_SECRET: lambda: secrets.token_hex(SECRET_BYTES) + "\n",
        places.keys / API_KEY: lambda: new_key().text + "\n",
        places.signing / WEBHOOK_SECRET: lambda: f"whsec_{b64encode(secrets.token_bytes(SECRET_BYTES)).decode()}\n",
    }
    made = []
    for path, content in contents.items():
        with _refusals_said(path.parent):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            made.append(_once(path, content))
    _check_password(folder)
    if not any(made):
        logger.info("nothing_to_do", folder=str(folder), reason="every file is there from an earlier run")
    first_key = places.keys / API_KEY
    logger.info("first_api_key", file=str(first_key), shown_in_compose_by=f"docker compose exec service cat {first_key}")


def _once(path: Path, content: Callable[[], str]) -> bool:
    """Whether it was written now. The file is whole or not there, and never replaced: another run may be as far as this one."""
    if path.exists():
        return False
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".init-")
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask
            file.write(content())
            file.flush()
            os.fsync(descriptor)
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(draft)
    _sync(path.parent)
    logger.info("made", file=str(path))
    return True


def _password(folder: Path) -> str:
    """The one that an earlier run gave to either file; a new one if there is none."""
    given = [_found(folder / name) for name in PASSWORDS if (folder / name).exists()]
    return given[0] if given else secrets.token_hex(SECRET_BYTES)


def _check_password(folder: Path) -> None:
    if len({_found(folder / name) for name in PASSWORDS}) > 1:
        raise SettingsError(
            f"{folder / REDIS_CONF} and {folder / REDIS_URL} hold different passwords:"
            f" remove {REDIS_URL} and run this again, then restart everything"
        )


def _found(path: Path) -> str:
    found = PASSWORDS[path.name].search(path.read_text(encoding="utf-8"))
    if not found:
        raise SettingsError(f"{path} holds no password as this command writes it: remove the file and run this again")
    return found[1]


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _refusals_said(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(f"{error.filename or folder}: {error.strerror}: {_remedy(folder)}") from None


def _remedy(folder: Path) -> str:
    user = os.geteuid()
    if not os.path.isdir(folder) or user in (0, folder.stat().st_uid):  # Path's own raises where a folder above it is closed
        return f"name a folder that user {user} can write to, on a disk with room"
    return f"{folder} belongs to user {folder.stat().st_uid}, and this runs as user {user}: chown -R {user} {folder}, or run as its owner"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.init", description="Makes the secrets of a new installation, once.")
    parser.add_argument("folder", type=Path, help="where they are kept: a folder that only the services read")
    parser.add_argument(
        "--keys-folder",
        type=Path,
        help="where the API key and what keys are hashed with go: one that the worker cannot read; default FOLDER",
    )
    parser.add_argument("--signing-folder", type=Path, help="where what webhooks are signed with goes; default FOLDER")
    parser.add_argument("--redis-host", default="redis", help="where the services find Redis (default: %(default)s)")
    parser.add_argument("--redis-port", type=int, default=6379, help="(default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
