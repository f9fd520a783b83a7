"""A fetch over HTTP from a server on loopback into a landing, with little patience."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.local_file_store import LocalFileStore
from dispatcher.guard import Guard
from dispatcher.http_fetch import HttpFetch, Patience
from dispatcher.landing import Landing
from tests.dispatcher.source_server import SourceServer, file

LOOPBACK = ("127.0.0.1/32",)
TALK = bytes(range(256)) * 4096  # 1 MB
MOST = 4 * 1024**2
HASTY = Patience(header_s=1.0, window_s=0.3, least_bytes_per_s=100_000, whole_s=3.0, connect_s=1.0, read_s=1.0)


def nothing() -> None:
    """For fetches that nobody cancels."""


@pytest.fixture
def web() -> Iterator[SourceServer]:
    with SourceServer({"/talk.wav": file(TALK)}) as running:
        yield running


@pytest.fixture
def landing(tmp_path: Path) -> Iterator[Landing]:
    made = Landing(LocalFileStore(tmp_path), "jobs/a/fetches/1/input", max_bytes=MOST)
    yield made
    made.discard()


def fetch(
    url: str, landing: Landing, *, patience: Patience = HASTY, guard: Guard | None = None, check: Callable[[], None] = nothing
) -> None:
    HttpFetch(guard or Guard(LOOPBACK), max_bytes=MOST, patience=patience)(url, landing, check)


def landed(landing: Landing) -> str:
    return landing.keep().sha256


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
