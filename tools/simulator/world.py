"""A box and a cloud on a virtual clock, which ask a policy every few seconds as the dispatcher would."""

from collections.abc import Callable
from functools import partial

from dispatcher.burst.policy import refusal_of
from dispatcher.burst.view import Budget, Decision, Local, Memory, PendingJob, Rules, View
from tools.simulator.clock import Clock
from tools.simulator.cloud import SimCloud
from tools.simulator.local import SimGpu, SimJob
from tools.simulator.scene import Caps, Outcome, Trace

Policy = Callable[[View, Memory], tuple[Decision, Memory]]
DAY_S = 86400.0
MEASURED_AFTER_S = 60.0  # of work, and the local speed is known


class World:
    def __init__(self, trace: Trace, policy: Policy | None, rules: Rules, caps: Caps) -> None:
        """Without a policy nothing leaves the box."""
        self._trace, self._policy, self._rules, self._caps = trace, policy, rules, caps
        self._clock, self._memory, self._left = Clock(), Memory(), len(trace.arrivals)
        self._jobs = [SimJob(f"{number:05}", one.at_s, one.audio_s) for number, one in enumerate(trace.arrivals)]
        self._pending: dict[str, SimJob] = {}
        self._gpus, self._dead = [SimGpu(trace.box) for _ in range(trace.box.gpus)], list[SimGpu]()
        self._cloud = SimCloud(trace, rules, self._clock, done=self._are_done, back=self._come_back)

    def run(self) -> Outcome:
        for job in self._jobs:
            self._clock.at(job.at_s, partial(self._comes, job))
        for start_s, end_s in self._trace.box.away:
            self._clock.at(start_s, self._gpu_dies)
            self._clock.at(end_s, self._gpu_returns)
        if self._policy is not None:
            self._clock.at(0.0, self._poll)
        while self._left:
            gpu = min(self._gpus, key=SimGpu.next_end_s, default=None)
            if gpu is not None and gpu.next_end_s() <= self._clock.next_s():
                self._go_to(gpu.next_end_s())
                gpu.end_one()
                self._left -= 1
                self._feed()
            else:
                self._go_to(self._clock.next_s())
                self._clock.pop()()
        return self._outcome()

    def _gpu_dies(self) -> None:
        self._dead.append(self._gpus.pop())
        self._come_back(self._dead[-1].die())

    def _gpu_returns(self) -> None:
        self._gpus.append(self._dead.pop())
        self._feed()

    def _go_to(self, now_s: float) -> None:
        self._clock.now_s = now_s
        for gpu in (*self._gpus, *self._dead):
            gpu.go_to(now_s)

    def _come_back(self, jobs: list[SimJob]) -> None:
        waiting = sorted([*self._pending.values(), *jobs], key=lambda job: job.id)
        self._pending = {job.id: job for job in waiting}
        self._feed()

    def _comes(self, job: SimJob) -> None:
        """The newest of all."""
        self._pending[job.id] = job
        self._feed()

    def _are_done(self, jobs: list[SimJob]) -> None:
        self._left -= len(jobs)

    def _feed(self) -> None:
        """GPUs claim eagerly, in the order of the queue; a head that does not fit is waited for."""
        while self._pending:
            head = next(iter(self._pending.values()))
            free = [gpu for gpu in self._gpus if gpu.has_room(head)]
            if not free:
                return
            del self._pending[head.id]
            head.start_s = self._clock.now_s
            min(free, key=SimGpu.jobs).take(head)

    def _poll(self) -> None:
        self._clock.at(self._clock.now_s + self._rules.poll_s, self._poll)
        if self._policy is None or not (self._pending or self._cloud.calls):
            return
        jobs = tuple(map(self._job_seen, self._pending.values()))
        view = View(self._clock.now_s, jobs, self._local(), self._cloud.seen(), self._budget(), self._rules)
        if self._cloud.calls or not refusal_of(view):  # where nothing can leave, a policy would only forecast
            decision, self._memory = self._policy(view, self._memory)
            self._act(decision)

    def _act(self, decision: Decision) -> None:
        self._cloud.wanted = decision.containers_wanted
        for bundle in decision.bundles:
            self._cloud.hand_over(bundle, [self._pending.pop(job_id) for job_id in bundle.job_ids])
        for back in decision.take_back:
            self._cloud.take_back(back.call_id)

    def _job_seen(self, job: SimJob) -> PendingJob:
        return PendingJob(job.id, job.audio_s, self._clock.now_s - job.at_s, int(job.audio_s * self._trace.modal.bytes_per_audio_s))

    def _local(self) -> Local:
        every, box = [*self._gpus, *self._dead], self._trace.box
        busy_s = sum(gpu.busy_s for gpu in every)
        speed = sum(gpu.worked_audio_s() for gpu in every) / busy_s if busy_s > MEASURED_AFTER_S else None
        return Local(tuple(gpu.seen() for gpu in self._gpus), speed, box.jobs_in_flight_max, box.audio_in_flight_max_s)

    def _budget(self) -> Budget:
        today_s, reserved = DAY_S * (self._clock.now_s // DAY_S), self._cloud.reserved_dollars()
        today = self._caps.day_dollars - self._cloud.billed_dollars(today_s) - reserved
        return Budget(today, self._caps.month_dollars - self._cloud.billed_dollars() - reserved)

    def _outcome(self) -> Outcome:
        span_s = self._clock.now_s
        self._cloud.scale_all_down()
        waits_s = [job.start_s - job.at_s for job in self._jobs]
        busy_s, dollars = sum(gpu.busy_s for gpu in (*self._gpus, *self._dead)), self._cloud.billed_dollars()
        return Outcome(waits_s, dollars, len(self._cloud.containers), busy_s, span_s)
