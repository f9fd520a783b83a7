"""Spillway's queue: the same jobs through its own door, then its depth under many clients."""

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from client.api import SpillwayClient
from core.job import JobOptions, NewJob
from core.job_store import JobStore, Runner
from core.media import Ffmpeg
from core.redis_steps import connect
from tools.local_stack import LocalStack, Plan
from tools.queue_bench.clients import Clients
from tools.queue_bench.comparison import IN_FLIGHT, LEASE_S, Queue, after_a_kill, compare
from tools.queue_bench.measured import Journal, Measured
from tools.queue_bench.processes import family, frozen, fsyncs_per_job, peak_memory_mb
from tools.stack_parts import PROGRAMS, ffmpeg
from tools.supervisor import Patience, Program

SPARE_THREADS = 32  # of the service, beside those of the streams
LONGEST_CALM_S = 10.0
RUNNER = Runner("bench", uuid4().hex)
JOB: Any = {"duration_s": 1.0, "filename": "a.wav", "input_key": "none", "input_sha256": "0" * 64, "options": JobOptions()}
Change = tuple[str, str]  # job id, state


@dataclass(frozen=True)
class Load:
    """`seconds` of it: clients that poll, every `poll_s`; streams, each on a job that starts and ends meanwhile; submits a second."""

    depth: int
    pollers: int
    poll_s: float
    streams: int
    rate: float
    seconds: float


@contextmanager
def stack(folder: Path, load: Load) -> Iterator[LocalStack]:
    worker = Program("worker", (sys.executable, "-m", "tools.scripted_worker", "--journal", folder / "ours"))
    programs = tuple(worker if program.name == "worker" else program for program in PROGRAMS)
    settings = {
        "SPILLWAY_MAX_QUEUED_JOBS": str(2 * load.depth + 10_000),
        "SPILLWAY_EVENT_STREAMS_MAX": str(load.streams),
        "SPILLWAY_SERVICE_THREADS": str(load.streams + SPARE_THREADS),
        "SPILLWAY_MAX_JOBS_IN_FLIGHT": str(IN_FLIGHT),
        "SPILLWAY_LEASE_S": str(LEASE_S),
        "SPILLWAY_HEARTBEAT_S": "2",
        "SPILLWAY_LOG_LEVEL": "warning",
    }
    with LocalStack(Plan(folder, settings, port=0, programs=programs, patience=Patience(quick_deaths=1_000)), lambda _: None) as running:
        yield running


class Ours:
    def __init__(self, running: LocalStack, folder: Path, recording: Path, seed: int) -> None:
        self._stack, self._recording, self._journal, self._seed = running, recording, Journal(folder / "ours"), seed
        self._redis = connect(running.redis_url)
        self._store, self._ffmpeg = JobStore(self._redis), Ffmpeg(ffmpeg())

    def measure(self, load: Load, jobs: int, kill_patience_s: float) -> Measured:
        with SpillwayClient(self._stack.url) as client:
            queue = Queue(self._submitter(client), self._started_at, self._journal, lambda: [self._pid("worker")])
            measured = compare(queue, jobs)
            pids = {"redis": [self._pid("redis")], "service": family(self._pid("service")), "worker": [self._pid("worker")]}
            measured.counts["fsyncs per job"] = fsyncs_per_job(pids, queue.run)
            measured.counts |= after_a_kill(queue, kill_patience_s)
        with frozen([self._pid("worker")]):  # from here on it is this process that claims
            self._calm(measured, min(LONGEST_CALM_S, load.seconds))
            asyncio.run(self._under_load(measured, load, self._fill(measured, load.depth)))
        measured.counts["service's memory, most"] = f"{peak_memory_mb(family(self._pid('service'))):.0f} MB"
        return measured

    def processes(self) -> list[int]:
        """All that may ask Redis for something."""
        return [pid for name in ("worker", "dispatcher", "service") for pid in family(self._pid(name))]

    def _calm(self, measured: Measured, seconds: float) -> None:
        """A probe alone is the part of a submit that ffmpeg takes."""
        measured.times_s["probe by ffmpeg alone"] = [self._probe_s() for _ in range(20)]
        alone, four = self._clients(), self._clients()
        asyncio.run(_together(alone, 1, seconds))
        measured.times_s["submit, one client alone"] = alone.seen.submits_s
        begun = time.monotonic()
        asyncio.run(_together(four, 4, seconds))
        measured.per_second["submits, four clients"] = len(four.seen.submits_s) / (time.monotonic() - begun)

    def _fill(self, measured: Measured, depth: int) -> list[str]:
        """Past HTTP: ten thousand probes would take minutes and say nothing."""
        before, begun = self._memory_kb(), time.monotonic()
        ids = [uuid4().hex for _ in range(depth)]
        for job_id in ids:
            self._store.submit(NewJob(**JOB, id=job_id, input_bytes=32_044), max_queued=10**9)
        measured.per_second["submits to the store, in a row"] = depth / (time.monotonic() - begun)
        measured.counts["Redis per 1,000 queued jobs"] = f"{1000 * (self._memory_kb() - before) / depth:.0f} kB"
        return ids

    async def _under_load(self, measured: Measured, load: Load, ids: Sequence[str]) -> None:
        clients = self._clients()
        watched = self._redis.zrange("spillway:pending:normal", 0, load.streams - 1)  # those that are claimed first
        opened = time.monotonic()
        streams = [asyncio.create_task(clients.watch(job)) for job in watched]
        polls = [asyncio.create_task(clients.poll(ids, load.poll_s)) for _ in range(load.pollers)]
        await clients.all_watch(len(watched))
        clients.counted_from = time.monotonic()
        measured.counts[f"{len(watched)} streams opened at once: all have spoken after"] = f"{clients.counted_from - opened:.1f} s"
        changes, claims_s = {}, []  # type: dict[Change, float], list[float]
        await asyncio.gather(
            asyncio.to_thread(self._run_jobs, len(watched), load.seconds, changes, claims_s), clients.submit(load.rate, load.seconds)
        )
        await asyncio.wait(streams, timeout=10)
        for task in (*streams, *polls):
            task.cancel()
        await asyncio.gather(*streams, *polls, return_exceptions=True)
        _note(measured, clients, changes, claims_s)

    def _run_jobs(self, count: int, seconds: float, changes: dict[Change, float], claims_s: list[float]) -> None:
        """Claims and ends that many jobs, evenly over the time."""
        pause_s = seconds / count / 2
        for _ in range(count):
            begun, at = time.monotonic(), time.time()
            job = self._store.claim(RUNNER, lease_s=3600, fits_s=1e9)
            claims_s.append(time.monotonic() - begun)
            assert job is not None
            changes[job.id, "running"] = at
            time.sleep(max(0.0, begun + pause_s - time.monotonic()))
            changes[job.id, "succeeded"] = time.time()
            self._store.succeed(job, result_key="none")
            time.sleep(max(0.0, begun + 2 * pause_s - time.monotonic()))

    def _submitter(self, client: SpillwayClient) -> Any:
        return lambda seconds: client.submit(self._recording, metadata={"script": {"seconds": seconds / 2}}).id  # in two stages

    def _started_at(self, job_id: str) -> float:
        """The claim, as the plain queue's begin is: before the decode."""
        started_at = self._store.get(job_id).started_at
        assert started_at is not None
        return started_at

    def _probe_s(self) -> float:
        begun = time.monotonic()
        self._ffmpeg.probe(self._recording)
        return time.monotonic() - begun

    def _clients(self) -> Clients:
        return Clients(int(self._stack.url.rpartition(":")[2]), self._recording.read_bytes(), seed=self._seed)

    def _memory_kb(self) -> float:
        return float(self._redis.info("memory")["used_memory"]) / 1024

    def _pid(self, name: str) -> int:
        pid = self._stack.pid(name)
        if pid is None:
            raise ProcessLookupError(f"{name} does not run: see {self._stack.log_dir}/{name}.log")
        return pid


async def _together(clients: Clients, count: int, seconds: float) -> None:
    await asyncio.gather(*(clients.submit_in_turn(seconds) for _ in range(count)))


def _note(measured: Measured, clients: Clients, changes: dict[Change, float], claims_s: Sequence[float]) -> None:
    seen = clients.seen
    events_s = [told - changes[change] for change, told in seen.told_at.items() if change in changes]
    ends = [change for change in changes if change[1] == "succeeded"]  # a start may be told together with its end
    measured.times_s |= {"submit, under the load": seen.submits_s, "poll": seen.polls_s, "claim": claims_s, "change to event": events_s}
    measured.counts["ends that no event told of"] = f"{sum(end not in seen.told_at for end in ends)} of {len(ends)}"
    measured.counts["answers that refused"] = json.dumps(seen.refused) if seen.refused else "0"
