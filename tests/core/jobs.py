"""Jobs and runners for the tests of the store."""

from typing import Any
from uuid import uuid4

from core.job import Job, JobOptions, NewJob, Stage
from core.job_store import Beat, JobStore, Runner, Verdict

ALICE, BOB = Runner("gpu0", "boot-a"), Runner("gpu1", "boot-b")
ROOM_S = 3600.0


def new_job(**changes: Any) -> NewJob:
    options = {name: changes.pop(name) for name in list(changes) if name in JobOptions.model_fields}
    job_id = uuid4().hex
    fields: dict[str, Any] = {
        "id": job_id, "duration_s": 30.0, "filename": "a.wav", "input_key": f"jobs/{job_id}/input",
        "input_bytes": 10, "input_sha256": "0" * 64, "options": JobOptions(**options),
    }  # fmt: skip
    return NewJob(**{**fields, **changes})


def submit(store: JobStore, **changes: Any) -> Job:
    return store.submit(new_job(**changes), max_queued=100)[0]


def claim(store: JobStore, runner: Runner = ALICE, *, lease_s: float = 60, fits_s: float = ROOM_S, **options: Any) -> Job:
    job = store.claim(runner, lease_s=lease_s, fits_s=fits_s, **options)
    assert job is not None
    return job


def beat(store: JobStore, job: Job, *, stage: Stage | None = None, progress: float = 0.0, renew: bool = False) -> Verdict:
    return store.beat([Beat(job.id, job.attempt, stage, progress)], lease_s=60, renew=renew)[0]
