"""Many clients of one service on few cores: submits, polls and event streams over plain sockets, each timed."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from math import inf

BOUNDARY = "frontier"


@dataclass
class Seen:
    """Seconds of each answer, what was answered other than it should be, and when each job's stream told of each state."""

    submits_s: list[float] = field(default_factory=list)
    polls_s: list[float] = field(default_factory=list)
    refused: dict[int, int] = field(default_factory=dict)
    told_at: dict[tuple[str, str], float] = field(default_factory=dict)
    submitted: list[str] = field(default_factory=list)

    def refuse(self, status: int) -> None:
        self.refused[status] = self.refused.get(status, 0) + 1


class Clients:
    """httpx for 400 connections would take the core that the service is to be measured on."""

    def __init__(self, port: int, recording: bytes, *, seed: int) -> None:
        self.seen, self.counted_from = Seen(), inf  # polls that are asked before are not
        self._port, self._recording, self._random = port, recording, random.Random(seed)

    async def submit(self, rate: float, seconds: float) -> None:
        """At the moments of a Poisson process, whatever became of those before."""
        end, under_way = time.monotonic() + seconds, []
        while time.monotonic() < end:
            under_way.append(asyncio.create_task(self._submit_one()))
            await asyncio.sleep(self._random.expovariate(rate))
        await asyncio.gather(*under_way)

    async def submit_in_turn(self, seconds: float) -> None:
        """As fast as one client can, each after the last."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await self._submit_one()

    async def poll(self, jobs: Sequence[str], every_s: float) -> None:
        """Until cancelled, over one connection."""
        await asyncio.sleep(self._random.uniform(0, every_s))
        async with self._connected() as (reader, writer):
            while True:
                begun = time.monotonic()
                status, _ = await _ask(reader, writer, _request("GET", f"/v1/jobs/{self._random.choice(jobs)}"))
                if begun > self.counted_from:
                    self.seen.polls_s.append(time.monotonic() - begun)
                if status != 200:
                    self.seen.refuse(status)
                await asyncio.sleep(self._random.uniform(0.5, 1.5) * every_s)

    async def watch(self, job: str) -> None:
        """Until the job has ended; anew when the stream ends before, as it does when Redis stands still for a moment."""
        while (job, "succeeded") not in self.seen.told_at:
            async with self._connected() as (reader, writer):
                writer.write(_request("GET", f"/v1/jobs/{job}/events"))
                if (status := await _status(reader)) != 200:
                    return self.seen.refuse(status)
                async for state in _states(reader):
                    self.seen.told_at.setdefault((job, state), time.time())

    async def all_watch(self, count: int) -> None:
        """Until so many streams have told of their jobs' first state, or were refused."""
        while len({job for job, _ in self.seen.told_at}) + sum(self.seen.refused.values()) < count:
            await asyncio.sleep(0.05)

    async def _submit_one(self) -> None:
        begun = time.monotonic()
        async with self._connected() as (reader, writer):
            status, body = await _ask(reader, writer, _upload(self._recording))
        self.seen.submits_s.append(time.monotonic() - begun)
        if status != 202:
            return self.seen.refuse(status)
        self.seen.submitted.append(json.loads(body)["id"])

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


def _request(method: str, path: str, headers: str = "", body: bytes = b"") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}\r\n".encode() + body


def _upload(recording: bytes) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    body = head.encode() + recording + f"\r\n--{BOUNDARY}--\r\n".encode()
    headers = f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {len(body)}\r\n"
    return _request("POST", "/v1/jobs", headers, body)


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, bytes]:
    writer.write(request)
    line, length = await reader.readline(), 0
    while (header := await reader.readline()).strip():
        name, _, value = header.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    return int(line.split()[1]), await reader.readexactly(length)


async def _status(reader: asyncio.StreamReader) -> int:
    line = await reader.readline()
    while (await reader.readline()).strip():
        pass
    return int(line.split()[1])


async def _states(reader: asyncio.StreamReader) -> AsyncIterator[str]:
    while line := await reader.readline():
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: ")).get("state", "deleted")
