"""Every crash point of every process, each with a life that passes it, and the run that kills at all of them."""

import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash import lives
from tests.crash.lives import Life
from tests.crash.stack import Bucket, CrashStack
from tools.crash_orders import Moment


def writing(kind: str) -> tuple[str, ...]:
    return tuple(f"{what}:{kind}" for what in ("begun", "written", "synced", "placed", "kept", "discarded"))


SCRATCH = tuple(point for point in writing("product") if not point.startswith("synced:"))  # a product need not outlive a power cut
SERVICE: Mapping[Life, Sequence[str]] = {
    lives.uploaded: (*writing("input"), "step:submit", "wake-up:sent"),
    lives.repeated: ("deleted:job",),
    lives.refused: ("discarded:input",),
    lives.looked_at: ("step:probe", "begun:probe", "discarded:probe"),
    lives.cancelled_while_it_runs: ("step:cancel",),
    lives.cancelled_while_it_is_fetched: ("step:cancel",),
    lives.deleted: ("deleted:job", "step:delete"),
    lives.deleted_while_it_runs: ("deleted:job", "step:delete"),
}
WORKER: Mapping[Life, Sequence[str]] = {
    lives.uploaded: (
        "redis:worker", "redis:workers", "wake-up:received", "step:claim", "step:count_worker", "stage:decode", "stage:vad", "stage:asr",
        *SCRATCH, "step:keep", "stage:diarization", "stage:alignment", "stage:assignment", "stage:commit",
        *writing("result"), "step:finish",
    ),
    lives.begun_again: ("slot:taken",),
    lives.run_for_a_while: ("step:beat",),
    lives.cancelled_while_it_runs: ("step:finish",),
    lives.broken: ("step:retry",),
    lives.lost: ("step:reclaim_slot",),
    lives.stopped: ("step:release",),
    lives.frozen_before_its_commit: ("deleted:result",),
    lives.frozen_with_a_product: ("deleted:product",),
}  # fmt: skip
DISPATCHER: Mapping[Life, Sequence[str]] = {
    lives.fetched: ("step:lead", "step:claim_fetch", *writing("fetched")[:-1], "step:fetched", "wake-up:sent", "redis:counters"),
    lives.fetched_slowly: ("step:beat_fetches",),
    lives.fetched_in_vain: ("deleted:fetched", "step:retry_fetch"),
    lives.fetched_noise: ("discarded:fetched", "deleted:fetched"),
    lives.cancelled_while_it_is_fetched: ("step:release_fetch",),
    lives.cancelled_once_it_was_fetched: ("deleted:fetched",),
    lives.deleted_once_it_was_fetched: ("deleted:job",),
    lives.frozen_before_its_commit: ("step:reclaim_expired",),
    lives.stopped_while_it_fetches: ("step:release_fetch", "step:resign"),
}
# What the dispatcher does once a job has ended.
AFTERWARDS: Mapping[Life, Sequence[str]] = {
    lives.told: ("step:claim_delivery", "sent:webhook", "step:end_delivery"),
    lives.told_slowly: ("step:beat_deliveries",),
    lives.stopped_while_it_tells: ("step:release_delivery",),
    lives.written_outside: ("placed:output", "sent:output", "step:end_delivery"),
    lives.its_recording_expires: ("step:expired", "deleted:input", "step:let_go"),
    lives.its_source_expires: ("deleted:fetched", "step:let_go"),
    lives.its_products_expire: ("step:expired", "deleted:product", "deleted:result", "step:let_go"),
    lives.it_expires: ("step:expired", "deleted:job", "step:let_go"),
    lives.looked_for_orphans: ("step:prune_workers", "redis:orphans"),
}
# Where the files are in a bucket: what differs from a local volume.
IN_BUCKET: Mapping[str, Mapping[Life, Sequence[str]]] = {
    "service": {
        lives.uploaded: ("placed:input", "kept:input"),
        lives.looked_at: ("placed:probe",),
        lives.repeated: ("deleted:input",),
        lives.deleted: ("deleted:input", "deleted:product", "deleted:result"),
    },
    "worker": {
        lives.uploaded: ("copied:input", "placed:product", "placed:result", "kept:result"),
        lives.fetched: ("copied:fetched",),
        lives.frozen_before_its_commit: ("deleted:result",),
        lives.frozen_with_a_product: ("deleted:product",),
    },
    "dispatcher": {
        lives.fetched: ("placed:fetched", "kept:fetched"),
        lives.cancelled_once_it_was_fetched: ("deleted:fetched",),
        lives.its_recording_expires: ("deleted:input",),
        lives.its_products_expire: ("deleted:product", "deleted:result"),
        lives.it_expires: ("deleted:input", "deleted:product", "deleted:result", "step:let_go"),
        lives.written_outside: ("placed:output",),
    },
}
LANES: Mapping[str, Mapping[str, Mapping[Life, Sequence[str]]]] = {
    "service": {"service": SERVICE, "dispatcher": AFTERWARDS},  # so that each lane takes about as long
    "worker": {"worker": WORKER},
    "dispatcher": {"dispatcher": DISPATCHER},
    "bucket": IN_BUCKET,
}


@dataclass(frozen=True)
class Case:
    lane: str
    life: Life
    moment: Moment

    def __str__(self) -> str:
        return f"{self.lane}-{self.moment.process}-{self.moment.point}-{self.life.__name__}"


CASES = tuple(
    Case(lane, life, Moment(process, point))
    for lane, processes in LANES.items()
    for process, all_of in processes.items()
    for life, points in all_of.items()
    for point in points
)


@dataclass
class Findings:
    """`known` is what Redis still holds of jobs once all are deleted, `uncounted` the jobs that ended in no total."""

    passed: dict[str, set[Moment]] = field(default_factory=dict)  # by lane
    faults: dict[Case, str] = field(default_factory=dict)
    orphans: dict[Case, int] = field(default_factory=dict)
    half_files: dict[Case, int] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    uncounted: list[int] = field(default_factory=list)


def kill_everywhere(folder: Path, bucket: Bucket) -> Findings:
    """In one stack for each lane, side by side."""
    findings = Findings()
    with ThreadPoolExecutor(len(LANES)) as together:
        stacks = {lane: CrashStack(_made(folder / lane), bucket, is_store=lane == "bucket") for lane in LANES}
        for running in [together.submit(_kill_all, lane, stack, findings) for lane, stack in stacks.items()]:
            running.result()
    return findings


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _kill_all(lane: str, stack: CrashStack, findings: Findings) -> None:
    with stack:
        for case in CASES:
            if case.lane == lane:
                _kill_at(case, stack, findings)
        findings.passed[lane] = stack.orders.passed()
        findings.uncounted.append(stack.counted("submitted") - stack.counted("succeeded", "failed", "cancelled"))
        findings.known |= stack.forget_all()


def _kill_at(case: Case, stack: CrashStack, findings: Findings) -> None:
    orphans, half_files = len(stack.orphans()), stack.half_files()
    stack.orders.order(case.moment)
    try:
        case.life(stack)
        stack.struck(case.moment)
        stack.comes_to_rest()
    except Exception:
        findings.faults[case] = traceback.format_exc()
    finally:
        stack.orders.withdraw()
    findings.orphans[case] = len(stack.orphans()) - orphans
    findings.half_files[case] = stack.half_files() - half_files
