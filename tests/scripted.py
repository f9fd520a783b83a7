"""The whole of Spillway as real processes, whose worker runs what each job's script says (`tools.scripted_worker`)."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from client.api import SpillwayClient
from client.models import Job
from tests.conftest import wait_for
from tests.worker.box import wav
from tools.local_stack import LocalStack, Plan
from tools.stack_parts import PROGRAMS
from tools.supervisor import Patience, Program


class ScriptedStack:
    """Quick leases, so that what is lost is taken back while a test waits."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str] | None = None,
        *,
        workers: int = 1,
        real: bool = False,
        launched: Callable[[Program], Program] = lambda program: program,
        redis_url: str | None = None,
    ) -> None:
        """`real`: jobs without a script are transcribed. `launched` may have a program started in another way. `redis_url`: a Redis
        that the test itself starts, stops and stands in the way of."""
        self.journal = folder / "journal"
        options = ("--real",) if real else ()
        command: tuple[str | Path, ...] = (sys.executable, "-m", "tools.scripted_worker", "--journal", self.journal, *options)
        names = ("worker", *(f"worker-{number}" for number in range(2, workers + 1)))
        others = tuple(program for program in PROGRAMS if program.name != "worker")
        programs = tuple(map(launched, (*others, *(Program(name, command) for name in names))))
        # Steps of the dispatcher that are a quarter of a lease apart are an outage to it: nothing would be taken back.
        quick = {"SPILLWAY_LEASE_S": "4", "SPILLWAY_HEARTBEAT_S": "1", "SPILLWAY_SWEEP_PERIOD_S": "0.2", "SPILLWAY_LOG_FORMAT": "json"}
        plan = Plan(
            folder, quick | dict(settings or {}), port=0, programs=programs, patience=Patience(quick_deaths=1_000), redis_url=redis_url
        )
        self.stack = LocalStack(plan)
        self.recording = folder / "second.wav"
        self.recording.write_bytes(wav(1.0))

    def __enter__(self) -> "ScriptedStack":
        self.stack.__enter__()
        self.client = SpillwayClient(self.stack.url)
        return self

    def __exit__(self, *raised: Any) -> None:
        self.client.close()
        self.stack.__exit__(*raised)

    def submit(self, script: Mapping[str, Any] | None = None, **options: Any) -> Job:
        metadata = {} if script is None else {"script": dict(script)}
        return self.client.submit(self.recording, metadata=metadata, **options)

    def stages(self, job: Job) -> list[tuple[int, str, str]]:
        """What the stages wrote of it themselves: attempt, stage, event."""
        return [(line["attempt"], line["stage"], line["event"]) for line in self.noted() if line["job"] == job.id]

    def noted(self) -> list[dict[str, Any]]:
        """Every line of the journal."""
        return [json.loads(line) for line in self.journal.read_text().splitlines()] if self.journal.exists() else []

    def holder(self, job: Job) -> int:
        """The process that runs it, once a stage has begun there."""
        wait_for(lambda: self.stages(job), "a stage to begin")
        return int([line["pid"] for line in self.noted() if line["job"] == job.id][-1])
