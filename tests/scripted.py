"""The whole of Spillway as real processes, whose worker runs what each job's script says (`tools.scripted_worker`)."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from client.api import SpillwayClient
from client.models import Job
from tests.worker.box import wav
from tools.local_stack import LocalStack, Plan
from tools.stack_parts import PROGRAMS
from tools.supervisor import Patience, Program


class ScriptedStack:
    """Quick leases, so that what is lost is taken back while a test waits."""

    def __init__(
        self, folder: Path, settings: Mapping[str, str] | None = None, *, redis_url: str | None = None, worker: Program | None = None
    ) -> None:
        """`redis_url`: a Redis that the test itself starts, stops and stands in the way of. `worker`: another one than the scripted."""
        self.journal = folder / "journal"
        worker = worker or Program("worker", (sys.executable, "-m", "tools.scripted_worker", "--journal", self.journal))
        programs = tuple(worker if program.name == "worker" else program for program in PROGRAMS)
        quick = {"SPILLWAY_LEASE_S": "4", "SPILLWAY_HEARTBEAT_S": "1", "SPILLWAY_LOG_FORMAT": "json"}
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
        lines = [json.loads(line) for line in self.journal.read_text().splitlines()]
        return [(line["attempt"], line["stage"], line["event"]) for line in lines if line["job"] == job.id]
