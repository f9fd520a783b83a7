"""A job as Redis holds it: one hash of texts, of which the parts that never change are JSON in one field."""

import json
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush

from core.errors import RecordBroken
from core.job import Job, JobFailure, JobState, Stage
from core.transcript import Notice


def job_of(fields: Mapping[str, str]) -> Job:
    """Raises `RecordBroken`."""
    try:
        return _job(fields)
    except (KeyError, TypeError, ValueError) as error:
        raise RecordBroken("the record of this job is broken in Redis: delete it, and send the recording again") from error


def _job(fields: Mapping[str, str]) -> Job:
    return Job(
        **(json.loads(fields["fixed"]) | json.loads(fields.get("fetched", "{}"))),
        state=JobState(fields["state"]),
        stage=Stage(fields["stage"]) if "stage" in fields else None,
        progress=float(fields["progress"]),
        attempt=int(fields["attempt"]),
        losses=int(fields["losses"]),
        fetch=int(fields.get("fetch", 0)),
        fetch_failures=int(fields.get("fetch_failures", 0)),
        failures=int(fields.get("failures", 0)),
        owner=fields.get("owner", ""),
        slot=fields.get("slot", ""),
        runner=fields.get("runner", ""),
        burst_failures=int(fields.get("burst_failures", 0)),
        cancel_requested="cancel_requested" in fields,
        seq=int(fields["seq"]),
        version=int(fields.get("version", 0)),
        created_at=seconds_of(fields["created_at"]),
        started_at=seconds_of(fields["started_at"]) if "started_at" in fields else None,
        finished_at=seconds_of(fields["finished_at"]) if "finished_at" in fields else None,
        products=_of_stages(fields, "product:"),
        product_sha256=_of_stages(fields, "product_sha256:"),
        result_key=fields.get("result_key"),
        result_sha256=fields.get("result_sha256") or None,
        warnings=tuple(Notice(**notice) for notice in json.loads(fields.get("warnings", "[]"))),
        error=JobFailure.model_validate_json(fields["error"]) if "error" in fields else None,
    )


def _of_stages(fields: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in fields.items() if name.startswith(prefix) and value}


def seconds_of(ms: str | None) -> float:
    return float(ms or 0) / 1000


def in_turn(jobs: Iterable[Job], lanes: Mapping[str, float]) -> list[Job]:
    """As claims would give them: of the lane that has had least, its oldest. Jobs come oldest first."""
    waiting: dict[str, deque[Job]] = defaultdict(deque)
    for job in jobs:
        waiting[job.key_id].append(job)
    turns = [(lanes.get(key_id, 0.0), key_id) for key_id in waiting]
    heapify(turns)
    ordered = []
    while turns:
        had_ms, key_id = heappop(turns)
        job = waiting[key_id].popleft()
        ordered.append(job)
        if waiting[key_id]:
            heappush(turns, (had_ms + round(job.work_s * 1000), key_id))
    return ordered
