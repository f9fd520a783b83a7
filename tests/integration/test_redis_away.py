"""Redis away, in every way that it can be: the service says so soon, everybody waits, and nothing is lost or begun again.

What is away for longer than a lease is so for less here than is promised; in full: `AWAY_S=30 make test ARGS='-k redis_away'`.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis
from redis.exceptions import RedisError

from client.models import Job
from tests.conftest import RedisServer, wait_for
from tests.line import Line
from tests.scripted import ScriptedStack

AWAY_S = float(os.environ.get("AWAY_S", "5"))  # more than a lease, which is 4 s
BRIEFLY_S = 1.0
SOON_S = 8.0  # that a caller waits at most: 2 s for Redis, the rest for two slow cores
BACK_S = 10.0
BALLAST = "ballast"
KEYS = 30_000


class Away:
    """A whole stack around a Redis that a test may harm."""

    def __init__(self, server: RedisServer, line: Line, stack: ScriptedStack, folder: Path, *, may_fill: bool) -> None:
        self.server, self.line, self.scripted, self.folder, self.may_fill = server, line, stack, folder, may_fill
        self.http = httpx.Client(base_url=stack.stack.url, timeout=60, trust_env=False)

    def admin(self) -> "Redis":
        """Past the line."""
        return Redis(port=self.server.port, socket_timeout=5)

    def signal(self, number: signal.Signals) -> None:
        assert self.server.process is not None
        self.server.process.send_signal(number)

    def pids(self) -> list[int | None]:
        return [self.scripted.stack.pid(name) for name in ("service", "worker", "dispatcher")]

    def begun(self, **script: Any) -> Job:
        job = self.scripted.submit(script)
        wait_for(lambda: self.scripted.stages(job), "the job to begin")
        return job

    def ended(self) -> Job:
        return self.scripted.client.wait(self.scripted.submit({}).id)

    def submit(self) -> httpx.Response:
        return self.http.post("/v1/jobs", files={"file": ("a.wav", self.scripted.recording.read_bytes())})


def configure(away: Away, **settings: str) -> None:
    with away.admin() as redis:
        for name, value in settings.items():
            redis.config_set(name.replace("_", "-"), value)


def command(away: Away, *words: str) -> None:
    with away.admin() as redis:
        redis.execute_command(*words)


def fail_to_save(away: Away) -> None:
    """A folder stands where the snapshot should."""
    (away.folder / "dump.rdb" / "in the way").mkdir(parents=True, exist_ok=True)
    configure(away, save="1 1")
    with away.admin() as redis:
        redis.set("news", 1)
        wait_for(lambda: redis.info("persistence")["rdb_last_bgsave_status"] == "err", "the save to fail")


def fill_the_disk(away: Away) -> None:
    assert away.server.process is not None
    with suppress(OSError), (away.folder / BALLAST).open("wb", buffering=0) as ballast:
        while ballast.write(bytes(4096)):
            pass
    with suppress(RedisError), away.admin() as redis:
        redis.set("last straw", "x" * 8192)
    away.server.process.wait(timeout=10)


def free_the_disk(away: Away) -> None:
    (away.folder / BALLAST).unlink()
    away.server.start()


def fill_memory(server: RedisServer) -> None:
    """What it may take a while to load."""
    with Redis(port=server.port) as redis, redis.pipeline(transaction=False) as pipe:
        for number in range(KEYS):
            pipe.set(f"filler:{number}", number)
        pipe.execute()


def start_slowly(away: Away) -> None:
    """It listens and refuses for 3 s at least."""
    away.server.stop()
    away.server.start("--key-load-delay", "100", answers=False)  # microseconds for each of them


def kill_clients(away: Away) -> None:
    with away.admin() as redis:
        for _ in range(12):
            redis.client_kill_filter(_type="normal", skipme=True)
            redis.client_kill_filter(_type="pubsub")
            time.sleep(0.25)


@dataclass(frozen=True)
class Harm:
    begin: Callable[[Away], object]
    end: Callable[[Away], object]
    seconds: float = BRIEFLY_S


SILENCES = {  # nothing is answered
    "killed": Harm(lambda away: away.server.stop(), lambda away: away.server.start(), AWAY_S),
    "stopped in order": Harm(lambda away: away.server.shut_down(), lambda away: away.server.start()),
    "paused": Harm(lambda away: away.signal(signal.SIGSTOP), lambda away: away.signal(signal.SIGCONT), AWAY_S),
    "behind a dead line": Harm(lambda away: away.line.go_silent(), lambda away: away.line.speak()),
    "loading": Harm(start_slowly, lambda away: away.server.wait()),
    "out of disk": Harm(fill_the_disk, free_the_disk),
}
REFUSALS = {  # no write is taken
    "full": Harm(lambda away: configure(away, maxmemory="1mb"), lambda away: configure(away, maxmemory="0"), AWAY_S),
    "unable to save": Harm(fail_to_save, lambda away: configure(away, save="")),
    "a replica": Harm(lambda away: command(away, "REPLICAOF", "127.0.0.1", "1"), lambda away: command(away, "REPLICAOF", "NO", "ONE")),
    "without our rights": Harm(
        lambda away: command(away, "ACL", "SETUSER", "default", "-evalsha"),
        lambda away: command(away, "ACL", "SETUSER", "default", "+@all"),
    ),
}


@contextmanager
def harmed(away: Away, harm: Harm) -> Iterator[None]:
    begun = time.monotonic()
    harm.begin(away)
    try:
        yield
        time.sleep(max(0.0, harm.seconds - (time.monotonic() - begun)))
    finally:
        harm.end(away)


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Whether there is one: it takes root."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def away(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Away]:
    folder = tmp_path_factory.mktemp("away")
    with small_disk(folder / "redis") as may_fill:
        server = RedisServer(folder / "redis")
        server.start()
        fill_memory(server)
        try:
            with Line(server.port) as line, ScriptedStack(folder, redis_url=f"redis://127.0.0.1:{line.port}/0") as scripted:
                made = Away(server, line, scripted, folder / "redis", may_fill=may_fill)
                yield made
                made.http.close()
        finally:
            server.stop()


def refused(away: Away, *requests: tuple[str, str]) -> None:
    """All at once, as callers come."""

    def ask(method: str, path: str) -> tuple[str, int, str, str, bool]:
        begun = time.monotonic()
        answer = away.submit() if (method, path) == ("POST", "/v1/jobs") else away.http.request(method, path)
        is_soon = time.monotonic() - begun < SOON_S
        return path, answer.status_code, answer.headers.get("Retry-After", "none"), answer.headers["Content-Type"], is_soon

    with ThreadPoolExecutor(len(requests)) as pool:
        answers = list(pool.map(ask, *zip(*requests, strict=True)))
    assert answers == [(path, 503, "5", "application/problem+json", True) for _, path in requests]


def assert_probes(away: Away, reason: str) -> None:
    assert away.http.get("/healthz").status_code == 200
    ready = away.http.get("/readyz")
    assert (ready.status_code, ready.json()["reasons"]) == (503, [reason])


def assert_all_goes_on(away: Away, running: Job, pids: list[int | None]) -> None:
    """Nothing was started again or lost, and work flows: what is sent now begins."""
    back = time.monotonic()
    wait_for(lambda: away.submit().status_code == 202, "the next job to be taken")
    next_job = away.begun()
    assert time.monotonic() - back < BACK_S
    assert away.scripted.client.wait(next_job.id).state == "succeeded"
    done = away.scripted.client.wait(running.id)
    assert (done.state, done.attempt, done.losses) == ("succeeded", 1, 0)
    assert away.pids() == pids


@pytest.mark.parametrize("how", SILENCES)
def test_redis_away_is_said_soon_and_waited_for(away: Away, how: str) -> None:
    if how == "out of disk" and not away.may_fill:
        pytest.skip("only root may mount the small disk that is filled here")
    known, pids = away.ended(), away.pids()
    running = away.begun(seconds=2 + SILENCES[how].seconds / 2)
    job = f"/v1/jobs/{running.id}"
    with away.http.stream("GET", f"{job}/events") as stream:
        lines = stream.iter_lines()
        assert next(lines)
        with harmed(away, SILENCES[how]):
            refused(
                away, ("GET", "/v1/queue"), ("GET", "/v1/jobs"), ("POST", "/v1/jobs"), ("GET", job), ("GET", f"{job}/events"),
                ("GET", f"/v1/jobs/{known.id}/transcript"), ("GET", f"{job}/deliveries"), ("POST", f"{job}/cancel"), ("DELETE", job),
            )  # fmt: skip
            assert_probes(away, "Redis does not answer")
            assert "succeeded" not in "".join(lines)  # the stream ends before its job: its client comes back, or polls
    assert_all_goes_on(away, running, pids)
    assert away.scripted.client.transcript(known.id, format="txt")


@pytest.mark.parametrize("how", REFUSALS)
def test_a_redis_that_takes_no_writes_is_waited_for(away: Away, how: str) -> None:
    known, pids = away.ended(), away.pids()
    running = away.begun(seconds=2 + REFUSALS[how].seconds / 2)
    with harmed(away, REFUSALS[how]):
        with away.admin() as redis:
            redis.client_kill_filter(_type="normal", skipme=True)  # who connects now meets the refusal at once
        refused(away, ("POST", "/v1/jobs"), ("POST", f"/v1/jobs/{running.id}/cancel"))
        assert_probes(away, "Redis takes no writes")
        assert away.http.get(f"/v1/jobs/{known.id}/transcript").status_code == 200
    assert_all_goes_on(away, running, pids)


def test_a_storm_of_broken_connections_costs_nothing(away: Away) -> None:
    pids, running = away.pids(), away.begun(seconds=1.5)
    storm = threading.Thread(target=kill_clients, args=(away,))
    storm.start()
    jobs = [away.scripted.submit({"seconds": 0.1}) for _ in range(5)]
    storm.join()
    assert [away.scripted.client.wait(job.id).attempt for job in jobs] == [1] * 5
    assert_all_goes_on(away, running, pids)
