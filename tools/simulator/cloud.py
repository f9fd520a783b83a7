"""Modal in the simulation: uplink, containers, calls, outages, and what they cost."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf
from random import Random

from dispatcher.burst.view import Bundle, Call, Cloud, Rules
from tools.simulator.clock import Clock
from tools.simulator.local import SimJob
from tools.simulator.scene import Trace

FAILS_TO_OPEN = 3  # in a row, as a breaker would count them
BREAKER_S = 300.0  # until it lets one call try again
REFUSED_S = 5.0  # until a hand-over is known to have failed
LOST_S = 60.0  # until a call whose container is gone is known to be lost
NEWEST = 0.3  # weight of the newest measurement


@dataclass
class Container:
    start_s: float
    idle_since_s: float | None = None
    end_s: float | None = None

    @property
    def is_idle(self) -> bool:
        return self.idle_since_s is not None and self.end_s is None


@dataclass
class SimCall:
    bundle: Bundle
    jobs: list[SimJob]
    at_s: float
    uploaded_s: float = inf
    start_s: float | None = None
    is_over: bool = False


class SimCloud:
    """`done` hears of jobs that are transcribed, `back` of those that must wait again."""

    def __init__(
        self, trace: Trace, rules: Rules, clock: Clock, *, done: Callable[[list[SimJob]], None], back: Callable[[list[SimJob]], None]
    ) -> None:
        self._modal, self._box, self._rules, self._clock, self._done, self._back = trace.modal, trace.box, rules, clock, done, back
        self._draw = Random(trace.seed)
        self.begun: Callable[[SimCall, float], None] | None = None  # told of each call that a container takes, and when it will be free
        self.calls: dict[str, SimCall] = {}
        self.containers: list[Container] = []
        self.wanted = 0
        self._waiting: list[SimCall] = []  # uploaded, and no container has taken them
        self._coming, self._uplink_free_s, self._fails, self._open_until_s = 0, 0.0, 0, -inf
        self._cold_start_s, self._real_time_factor = trace.modal.cold_start_median_s, trace.modal.real_time_factor
        for start_s, _ in trace.modal.outages:
            clock.at(start_s, self._goes_away)

    def hand_over(self, bundle: Bundle, jobs: list[SimJob]) -> SimCall:
        now_s = self._clock.now_s
        call = SimCall(bundle, jobs, now_s)
        self.calls[f"{now_s:.0f}-{jobs[0].id}"] = call
        if self._is_away():
            self._clock.at(now_s + REFUSED_S, partial(self._fails_with, call))
            return call
        size = bundle.audio_s * self._modal.bytes_per_audio_s
        self._uplink_free_s = max(self._uplink_free_s, now_s) + size / self._modal.upload_bytes_per_s
        call.uploaded_s = self._uplink_free_s
        self._clock.at(call.uploaded_s, partial(self._is_uploaded, call))
        return call

    def take_back(self, call_id: str) -> None:
        call = self.calls[call_id]
        if call.start_s is None:
            self._is_over(call)
            self._back(call.jobs)

    def seen(self) -> Cloud:
        calls = tuple(self._call_seen(name, call) for name, call in self.calls.items())
        is_open = self._clock.now_s < self._open_until_s
        return Cloud(self._cold_start_s, self._real_time_factor, self._modal.upload_bytes_per_s, calls, self._idle(), is_open)

    def reserved_dollars(self) -> float:
        idle_dollars = self._idle() * self._rules.scale_down_s * self._rules.container_dollars_per_s
        return idle_dollars + sum(call.bundle.reserve_dollars for call in self.calls.values())

    def billed_dollars(self, since_s: float = 0.0) -> float:
        spans = ((max(one.start_s, since_s), self._clock.now_s if one.end_s is None else one.end_s) for one in self.containers)
        return self._rules.container_dollars_per_s * sum(max(0.0, end_s - start_s) for start_s, end_s in spans)

    def scale_all_down(self) -> None:
        for container in self.containers:
            if container.end_s is None:
                container.end_s = (container.idle_since_s or self._clock.now_s) + self._rules.scale_down_s

    def _call_seen(self, name: str, call: SimCall) -> Call:
        now_s, has_started = self._clock.now_s, call.start_s is not None
        left = max(0.0, call.uploaded_s - now_s) * self._modal.upload_bytes_per_s if call.uploaded_s < inf else 0.0
        since_s = now_s - (call.at_s if call.start_s is None else call.start_s)
        return Call(name, call.bundle.audio_s, has_started, since_s, int(left), call.bundle.needs_container)

    def _idle(self) -> int:
        return sum(one.is_idle for one in self.containers)

    def _is_away(self) -> bool:
        return any(start_s <= self._clock.now_s < end_s for start_s, end_s in self._modal.outages)

    def _goes_away(self) -> None:
        for container in self.containers:
            container.end_s = container.end_s or self._clock.now_s
        for call in self.calls.values():
            self._clock.at(self._clock.now_s + LOST_S, partial(self._fails_with, call))

    def _fails_with(self, call: SimCall) -> None:
        if call.is_over:
            return
        self._fails += 1
        if self._fails >= FAILS_TO_OPEN:
            self._open_until_s = self._clock.now_s + BREAKER_S
        self._is_over(call)
        self._back(call.jobs)

    def _is_over(self, call: SimCall) -> None:
        call.is_over = True
        self.calls = {name: one for name, one in self.calls.items() if one is not call}
        self._waiting = [one for one in self._waiting if one is not call]

    def _is_uploaded(self, call: SimCall) -> None:
        if not call.is_over and not self._is_away():
            self._waiting.append(call)
            self._serve()

    def _serve(self) -> None:
        """Idle containers take calls in order; while calls wait, containers come up, no more than were wanted."""
        for container in self.containers:
            if self._waiting and container.is_idle:
                self._begin(container, self._waiting.pop(0))
        alive = sum(one.end_s is None for one in self.containers)
        for _ in range(min(len(self._waiting) - self._coming, min(self.wanted, self._rules.containers_max) - alive)):
            self._bring_up()

    def _bring_up(self) -> None:
        cold_s = self._draw.lognormvariate(0, self._modal.cold_start_spread) * self._modal.cold_start_median_s
        container = Container(self._clock.now_s)
        self.containers.append(container)
        self._coming += 1
        self._clock.at(self._clock.now_s + cold_s, partial(self._is_up, container, cold_s))

    def _is_up(self, container: Container, cold_s: float) -> None:
        self._coming -= 1
        self._cold_start_s += NEWEST * (cold_s - self._cold_start_s)
        self._rest(container)

    def _rest(self, container: Container) -> None:
        if container.end_s is not None:
            return
        container.idle_since_s = self._clock.now_s
        self._serve()
        if container.is_idle:
            self._clock.at(self._clock.now_s + self._rules.scale_down_s, partial(self._scale_down, container, self._clock.now_s))

    def _scale_down(self, container: Container, since_s: float) -> None:
        if container.is_idle and container.idle_since_s == since_s:
            container.end_s = self._clock.now_s

    def _begin(self, container: Container, call: SimCall) -> None:
        container.idle_since_s, call.start_s = None, self._clock.now_s
        for job in call.jobs:
            job.start_s = self._clock.now_s
        work_s = sum(job.audio_s + self._box.job_overhead_audio_s for job in call.jobs) / self._modal.real_time_factor
        run_s = self._modal.call_overhead_s + work_s * self._draw.lognormvariate(0, self._modal.run_spread)
        if self.begun:
            self.begun(call, self._clock.now_s + run_s)
        self._clock.at(self._clock.now_s + run_s, partial(self._ends, container, call, run_s))

    def _ends(self, container: Container, call: SimCall, run_s: float) -> None:
        if call.is_over or container.end_s is not None:
            return
        self._is_over(call)
        self._fails = 0
        self._real_time_factor += NEWEST * (call.bundle.audio_s / run_s - self._real_time_factor)
        self._done(call.jobs)
        self._rest(container)
