"""What was measured of Modal, and what is assumed until it was."""

from collections.abc import Callable

from core.burst import DEPLOY, Container, Outcome, Reply, Stack
from core.bursts import Bursts
from core.settings import variable
from dispatcher.burst.flight import Flight, receipts_of

COLD_START_S = 60.0  # assumed: import, models from a Volume; `python -m dispatcher.burst check` measures it
REAL_TIME_FACTOR = 5.0  # assumed: the lower end of what users of the same stack tell of an A10G with speakers
UPLOAD_BYTES_PER_S = 2_500_000.0  # assumed: 20 Mbit/s
LONGEST_WAIT_S = 3600.0  # for a container; what seems longer is two clocks that differ
LEAST_AUDIO_S = 60.0  # of a bundle that says something of speed
LEAST_BYTES = 1_000_000  # of an upload that does
SLOWER_AT_MOST = 4.0  # than expected a bundle may be before it is overdue …
DEADLINE_FLOOR_S = 180.0  # … and never less than this
REPLY_S = 30.0  # before Modal ends the call: attempts may come 20 s late to their end (`worker.remote`), and the reply is sent


class Gauges:
    def __init__(self, bursts: Bursts, own_stacks: Callable[[], set[Stack]], *, startup_s: float, timeout_s: float) -> None:
        """`own_stacks`: of the workers of this box, as they tell them. Modal's limits: `startup_s` of a start, `timeout_s` of a call."""
        self._bursts, self._own_stacks, self._startup_s, self._timeout_s = bursts, own_stacks, startup_s, timeout_s
        self.cold_start_s, self.real_time_factor, self.upload_bytes_per_s = COLD_START_S, REAL_TIME_FACTOR, UPLOAD_BYTES_PER_S

    def read(self) -> None:
        """Raises `StoreUnavailable`."""
        measured = self._bursts.measured()
        self.cold_start_s = measured.get("cold_start_s", COLD_START_S)
        self.real_time_factor = measured.get("real_time_factor", REAL_TIME_FACTOR)
        self.upload_bytes_per_s = measured.get("upload_bytes_per_s", UPLOAD_BYTES_PER_S)

    def deadline_s(self, audio_s: float) -> float:
        """How long the container may work on it."""
        return min(max(SLOWER_AT_MOST * audio_s / self.real_time_factor, DEADLINE_FLOOR_S), self.longest_s)

    @property
    def longest_s(self) -> float:
        return self._timeout_s - REPLY_S

    def measure(self, flight: Flight, reply: Reply) -> None:
        values: dict[str, float] = {}
        if reply.container is not None and reply.container.bundles_before == 0:
            since_call_s = reply.started_at - (flight.called_at or reply.started_at)  # by two machines' clocks
            waited_s = since_call_s if since_call_s < LONGEST_WAIT_S else 0.0
            values["cold_start_s"] = self.cold_start_s_of(reply.container, waited_s)
        audio_s = sum(job.work_s for job, receipt in receipts_of(reply, flight.jobs) if receipt.outcome == Outcome.SUCCEEDED)
        if reply.seconds and audio_s >= LEAST_AUDIO_S:
            values["real_time_factor"] = audio_s / reply.seconds
        if flight.sent_s and flight.sent_bytes >= LEAST_BYTES:
            values["upload_bytes_per_s"] = flight.sent_bytes / flight.sent_s
        self._bursts.measure(**values)
        self.read()

    def cold_start_s_of(self, container: Container, waited_s: float) -> float:
        """With its boot, as far as the wait for it tells. A wait for a free GPU is no start: were it taken for one, a long one could make
        every later start too dear for the caps, and no better one would be measured."""
        return max(container.cold_start_s, min(waited_s, self._startup_s))

    def stack_fault(self, reply: Reply) -> str | None:
        """Why results of there and of here are not the same, if they are not; while no worker here has told, nobody knows."""
        own = self._own_stacks()
        if reply.container is None or not own or reply.container.stack in own:
            return None
        deploy = f"run `{DEPLOY}`, then `python -m dispatcher.burst setup`"
        if reply.container.stack.lock_sha256 not in {stack.lock_sha256 for stack in own}:
            return f"the packages on Modal are not this box's: {deploy}; one with another torch needs {variable('modal_image')}"
        return f"the models on Modal are not this box's: {deploy}; one with {variable('hf_token')} needs {variable('modal_hf_secret')} too"
