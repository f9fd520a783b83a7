"""A kill between every two steps of a job's way, and the proof that no step is left out."""

import ast
from collections.abc import Iterator
from typing import Any, TypeGuard

import pytest

from core.file_store import FileStore
from core.job import Stage
from core.redis_steps import COUNTS, STEPS
from tests.conftest import ROOT
from tests.crash import lives
from tests.crash.matrix import CASES, Case, Findings, kill_everywhere
from tests.crash.stack import Bucket
from tests.gcs_server import CloudServer
from tests.test_guards import PACKAGES
from tools.crash_orders import Moment

KILLED_AT = {case.moment for case in CASES}
POINTS = {point for _, point in KILLED_AT}
# Steps of Redis that no job's way leads past, and why a kill after them leaves nothing to be mended.
BESIDE = {
    "step:spend": "how often a caller may come is in Redis' memory alone, and a repeat may count twice",
    "step:unfinished": "it counts, and drops what has ended",
    "step:burst_spent": "what a command by hand has cost is posted last",
    **dict.fromkeys(
        ("step:burst", "step:burst_called", "step:burst_settled"), "no burst here: tests/dispatcher/burst/test_deaths.py dies after each"
    ),
    "redis:burst_figures": "one measurement of Modal more or less",
    "redis:burst_outlook": "it is told anew every few seconds, and forgotten by itself",
    "redis:api_keys": "a key is made, and revoked, by hand",
}
# What each method that changes the file store leaves behind, as its crash points tell it.
WRITES = {
    "start": ("begun", "written", "synced", "placed", "kept", "discarded"),
    "write": ("begun", "written", "synced", "placed", "kept", "discarded"),
    "write_once": ("begun", "written", "synced", "placed", "kept", "discarded"),
    "local_copy": ("copied",),
    "delete": ("deleted",),
    "delete_job": ("deleted",),
    "tidy": (),  # what it takes away nobody has for a day, and nobody reads
}
READS = {"read", "listed", "key_of", "free_bytes", "fault"}
OF_A_BUCKET = ("placed:", "copied:", "deleted:")  # other code than on a local volume
# A service that died between an upload and its record leaves files that no record tells of; of these moments alone.
ORPHANED = {Moment("service", f"{what}:input") for what in ("synced", "placed", "kept", "discarded")}
# One writes anew while the other finds out that it lost its job.
TWO_ATTEMPTS = (lives.frozen_before_its_commit, lives.frozen_with_a_product)
HALF_WRITTEN = ("begun:", "written:", "synced:", "placed:", "copied:")
BESIDE_A_WRITE = ("redis:worker", "step:count_worker", "step:beat")  # on threads of their own, while a job's may be writing
REDIS_WRITES = {"set", "setnx", "sadd", "srem", "hset", "hsetnx", "hincrby", "hdel", "pexpire", "delete", "lpush", "zadd", "zrem", "incr"}
OF_THE_LEADER = {"set", "pexpire"}  # one point for both: whichever it was, the dispatcher leads


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory, cloud_session: CloudServer) -> Iterator[Findings]:
    bucket = Bucket(cloud_session, "crash")
    cloud_session.reset()
    cloud_session.make_bucket(bucket.name)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("STORAGE_EMULATOR_HOST", cloud_session.url)
        yield kill_everywhere(tmp_path_factory.mktemp("crash"), bucket)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_kill_ends_right(findings: Findings, case: Case) -> None:
    assert case not in findings.faults, findings.faults[case]


def test_every_moment_that_a_process_comes_to_is_killed_at(findings: Findings) -> None:
    in_bucket = findings.passed.pop("bucket")
    assert set().union(*findings.passed.values()) == {case.moment for case in CASES if case.lane != "bucket"}
    assert in_bucket <= KILLED_AT
    of_bucket = {moment for moment in in_bucket if moment.point.startswith(OF_A_BUCKET)}
    assert of_bucket <= {case.moment for case in CASES if case.lane == "bucket"}


def test_nothing_is_left_but_what_a_sweep_may_remove(findings: Findings) -> None:
    assert {case.moment for case, count in findings.orphans.items() if count} <= ORPHANED
    halves = {case for case, count in findings.half_files.items() if count > 0 and case.life not in TWO_ATTEMPTS}
    assert [str(case) for case in halves if not case.moment.point.startswith(HALF_WRITTEN + BESIDE_A_WRITE)] == []
    assert max(findings.half_files.values()) <= 1
    assert findings.known == set()


def test_every_job_is_counted_once_however_often_its_processes_died(findings: Findings) -> None:
    deleted_before_their_end = sum("deleted" in case.life.__name__ and case.life.__name__ != "deleted" for case in CASES)
    assert sum(findings.uncounted) == deleted_before_their_end


def test_every_step_of_redis_is_killed_at() -> None:
    scripts = {path.stem for path in (ROOT / "core" / "lua").glob("*.lua")} - {"prelude"}
    assert scripts == {*STEPS, *COUNTS}
    assert {f"step:{name}" for name in scripts} - POINTS == {point for point in BESIDE if point.startswith("step:")}


def test_every_crash_point_in_the_code_is_killed_at() -> None:
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    named = [call.args for path in sources for call in ast.walk(ast.parse(path.read_text())) if _is_point(call)]
    assert {what.value for what, _ in named} == {point.partition(":")[0] for point in POINTS}
    whole = {":".join((what.value, str(of.value))) for what, of in named if isinstance(of, ast.Constant)}
    assert whole - POINTS == {point for point in BESIDE if point.startswith("redis:")}


def test_every_stage_is_killed_at() -> None:
    assert {f"stage:{stage}" for stage in Stage} - POINTS == {"stage:fetching"}  # the dispatcher's, whose every step is


def test_every_method_of_the_file_store_is_killed_in() -> None:
    methods = {name for name in vars(FileStore) if not name.startswith("_")}
    assert methods == READS | WRITES.keys()
    assert {what for points in WRITES.values() for what in points} <= {point.partition(":")[0] for point in POINTS}


def test_every_write_to_redis_outside_the_steps_has_its_crash_point() -> None:
    for path in (ROOT / "core").glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                writes = [call.attr for call in _calls(function) if _is_redis(call) and call.attr in REDIS_WRITES]
                points = 1 if set(writes) == OF_THE_LEADER else len(writes)
                assert _points_of(function) == points, f"{path.name}: {function.name} writes {writes}"


def test_only_the_tools_can_arm_a_crash_point() -> None:
    sources = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert [path for path in sources if "addaudithook" in path.read_text()] == []


def _is_point(node: ast.AST) -> TypeGuard[Any]:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "passed"


def _calls(function: ast.FunctionDef) -> list[ast.Attribute]:
    return [node.func for node in ast.walk(function) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]


def _is_redis(call: ast.Attribute) -> bool:
    return isinstance(call.value, ast.Attribute) and call.value.attr == "_redis"


def _points_of(function: ast.FunctionDef) -> int:
    """How many of its calls are `passed("redis", …)`."""
    return sum(call.args[0].value == "redis" for call in ast.walk(function) if _is_point(call))
