"""All of Spillway on this machine's loopback: `python -m tools.local_stack up|down|status`, and `LocalStack` for the demo and the tests."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from core.errors import SettingsError, SpillwayError
from core.job_store import JobStore
from core.redis_steps import connect
from core.settings import PREFIX, Settings
from core.worker_reports import WorkerReport
from tools import background, stack_parts
from tools.model_profile import PullFailed, pull_models
from tools.stack_parts import DEFAULTS, LOOPBACK, PROGRAMS, ROOT
from tools.state_lock import FolderTaken, Holder, held, turn
from tools.supervisor import USUAL_PATIENCE, Patience, Program, Say, Supervisor, last_lines

STATE_DIR = ROOT / ".local"
FIRST_PORT = 8000


class StackFailed(Exception):
    """The stack does not run; the message says which process is the cause, with the end of its log."""


@dataclass(frozen=True)
class Plan:
    """`settings` are `SPILLWAY_*` variables; those of our own environment are not passed on. Port 0 takes any that is free.

    `redis_url` is a Redis that somebody else runs; without one the stack runs its own.
    """

    state_dir: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    port: int = FIRST_PORT
    ready_timeout_s: float = 300.0
    patience: Patience = USUAL_PATIENCE
    programs: Sequence[Program] = PROGRAMS
    redis_url: str | None = None


class LocalStack:
    """A context: inside it jobs are taken at `url`. Raises `StackFailed`, `FolderTaken`, `SettingsError`."""

    def __init__(self, plan: Plan, say: Say = print) -> None:
        self._plan = plan
        self._say = say
        self._exits = ExitStack()
        self._supervisors: list[Supervisor] = []
        self.log_dir = plan.state_dir / "logs"
        self.url = ""
        self.redis_url = ""

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            note = exits.enter_context(held(self._plan.state_dir))
            self._prepare_folders()
            self._start_redis(exits)
            self._start_ours(exits)
            for supervisor in self._supervisors:
                supervisor.settle()
            note(Holder(os.getpid(), self.url))
            self._exits = exits.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._exits.close()

    def pid(self, name: str) -> int | None:
        """The process id of `redis`, `service`, `worker` or `dispatcher`; None while it is between two lives."""
        return next(pids[name] for supervisor in self._supervisors if name in (pids := supervisor.pids()))

    def check(self) -> None:
        """Raises `StackFailed` when a process cannot be kept running."""
        for supervisor in self._supervisors:
            if supervisor.failure:
                raise StackFailed(supervisor.failure)

    def watch(self) -> None:
        """Returns only by raising `StackFailed`."""
        while True:
            self.check()
            time.sleep(0.2)

    def _prepare_folders(self) -> None:
        for folder in ("redis", "files", "logs"):
            (self._plan.state_dir / folder).mkdir(parents=True, exist_ok=True)
        for name in ("redis", *(program.name for program in self._plan.programs)):
            (self.log_dir / f"{name}.log").unlink(missing_ok=True)

    def _start_redis(self, exits: ExitStack) -> None:
        port = stack_parts.free_port()
        self.redis_url = self._plan.redis_url or f"redis://{LOOPBACK}:{port}/0"
        if self._plan.redis_url is None:
            self._supervise([stack_parts.redis_program(port, self._plan.state_dir / "redis")], dict(os.environ), exits)
        self._wait_for("redis", lambda: stack_parts.redis_answers(self.redis_url), timeout_s=60.0)

    def _start_ours(self, exits: ExitStack) -> None:
        port = stack_parts.free_port(self._plan.port)
        if self._plan.port not in (0, port):
            self._say(f"port {self._plan.port} is taken: using {port}")
        self.url = f"http://{LOOPBACK}:{port}"
        self._forget_last_worker()
        self._supervise(self._plan.programs, self._environment(port), exits)
        self._wait_for("service", lambda: stack_parts.service_is_ready(self.url), timeout_s=90.0)
        self._wait_for("worker", self._a_worker_is_fit, self._plan.ready_timeout_s, lambda: stack_parts.why_unfit(self.url))

    def _a_worker_is_fit(self) -> bool:
        if stack_parts.is_given_up(self.url):
            raise StackFailed(f"the worker cannot work: {stack_parts.why_unfit(self.url)}\n{last_lines(self.log_dir / 'worker.log')}")
        return stack_parts.a_worker_is_fit(self.url)

    def _forget_last_worker(self) -> None:
        """What the worker of the last run said of itself must not be taken for this one's readiness."""
        with connect(self.redis_url) as redis:
            JobStore(redis).report_worker(WorkerReport(DEFAULTS["SPILLWAY_WORKER_SLOT"], False, "starting", "", "", 0), ttl_s=60)

    def _supervise(self, programs: Sequence[Program], environment: Mapping[str, str], exits: ExitStack) -> None:
        supervisor = Supervisor(programs, environment, self.log_dir, say=self._say, patience=self._plan.patience)
        self._supervisors.append(exits.enter_context(supervisor))

    def _environment(self, port: int) -> dict[str, str]:
        """Raises `SettingsError`, so that a wrong variable is named once and not by three dying processes."""
        files = str(self._plan.state_dir / "files")
        ours = {"SPILLWAY_REDIS_URL": self.redis_url, "SPILLWAY_HOST": LOOPBACK, "SPILLWAY_FILE_STORE_DIR": files}
        for name in ours.keys() & self._plan.settings:
            self._say(f"{name} is passed over: this stack has its own, {ours[name]}")
        settings = {**DEFAULTS, "SPILLWAY_FFMPEG": stack_parts.ffmpeg(), **self._plan.settings, **ours, "SPILLWAY_PORT": str(port)}
        _check_open(Settings.from_environment(settings))
        # Some containers forbid bytecode; then each start compiles the ML stack again, 29 s of CPU in place of 9.
        return {**_without_settings(os.environ), "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "", **settings}

    def _wait_for(self, name: str, is_up: Callable[[], bool], timeout_s: float, why_not: Callable[[], str] = lambda: "no answer") -> None:
        started = time.monotonic()
        while not is_up():
            self.check()
            if time.monotonic() - started > timeout_s:
                raise StackFailed(
                    f"{name} was not ready within {timeout_s:.0f} s ({why_not()})\n{last_lines(self.log_dir / f'{name}.log')}"
                )
            time.sleep(0.1)
        self._say(f"{name}: ready after {time.monotonic() - started:.1f} s")


def _check_open(settings: Settings) -> None:
    """Raises `SettingsError`."""
    if settings.access != "open":
        raise SettingsError("SPILLWAY_ACCESS is keys, and this stack is open because it listens on loopback only: unset the variable")


def _without_settings(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith(PREFIX)}


def _own_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(PREFIX) and value}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.local_stack", description="Spillway on this machine's loopback.")
    parser.add_argument(
        "command", choices=["up", "down", "status", "run"], help="run: in the foreground, which is what up puts in the background"
    )
    parser.add_argument("--state-dir", type=Path, default=STATE_DIR, help="queue, files and logs (default: %(default)s)")
    given = parser.parse_args(arguments)
    try:
        return COMMANDS[given.command](given.state_dir.absolute())
    except (StackFailed, FolderTaken, PullFailed, SpillwayError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("interrupted: what this had started is stopped", file=sys.stderr, flush=True)
        return 130


def up(state_dir: Path) -> int:
    with turn(state_dir, lambda: print("another start is under way here: waiting for it", flush=True)):
        holder = background.settled_holder(state_dir)
        if holder:
            print(f"it already runs (process {holder.pid}), with the settings that it was started with; `make down` first to change them")
        else:
            holder = _started(state_dir)
    if not holder:
        return 1
    if holder.url != f"http://{LOOPBACK}:{FIRST_PORT}":
        print(f"for the client: export SPILLWAY_URL={holder.url}")
    print("open without keys, because it listens on this machine's loopback only; `make down` stops it")
    print(holder.url)
    return 0


def _started(state_dir: Path) -> Holder | None:
    settings = _own_settings()
    _check_open(Settings.from_environment({**DEFAULTS, **settings}))  # a wrong one is said before gigabytes are brought
    pull_models(settings)
    device = settings.get("SPILLWAY_DEVICE", DEFAULTS["SPILLWAY_DEVICE"])
    print(
        f"starting redis, service, worker (on {device}; SPILLWAY_DEVICE=cuda takes the GPU) and dispatcher; logs: {state_dir}/logs",
        flush=True,
    )
    command = [sys.executable, "-m", "tools.local_stack", "run", "--state-dir", str(state_dir)]
    return background.start(command, state_dir, state_dir / "logs" / "up.log")


def down(state_dir: Path) -> int:
    print("stopped" if background.stop(state_dir) else "nothing runs")
    return 0


def status(state_dir: Path) -> int:
    holder = background.settled_holder(state_dir, patience_s=0)
    print(f"runs as process {holder.pid} at {holder.url or '(starting)'}" if holder else "does not run")
    return 0 if holder else 3


def run(state_dir: Path) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings = _own_settings()
    plan = Plan(state_dir, settings, port=int(settings.get("SPILLWAY_PORT", FIRST_PORT)))
    with LocalStack(plan, lambda line: print(line, flush=True)) as stack:
        stack.watch()
    return 0


COMMANDS: dict[str, Callable[[Path], int]] = {"up": up, "down": down, "status": status, "run": run}

if __name__ == "__main__":
    sys.exit(main())
