"""When the cloud would start the next bundles, container by container."""

from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from dispatcher.burst.view import Call, Cloud, PendingJob, Rules


@dataclass(frozen=True)
class Slot:
    """Where the next bundle would run."""

    start_s: float
    is_cold: bool
    takes_now: bool  # a call handed over now would find the container free, or bring it up; earlier it would start another one


class CloudStarts:
    """Up to `containers` of them: those that run or come, then new ones. Uploads share one uplink, in order."""

    def __init__(self, cloud: Cloud, rules: Rules, containers: int) -> None:
        self._cloud, self._rules = cloud, rules
        self.uplink_free_s = sum(call.upload_left_bytes for call in cloud.calls) / cloud.upload_bytes_per_s
        self._free = [(free_s, False) for free_s in containers_free_s(cloud)]
        self._free += [(0.0, True)] * (containers - len(self._free))
        heapify(self._free)

    def place(self, upload_bytes: int) -> Slot:
        free_s, is_cold = self._free[0]
        uploaded_s = self.uplink_free_s + upload_bytes / self._cloud.upload_bytes_per_s
        if is_cold:
            return Slot(uploaded_s + self._cloud.cold_start_s, True, True)
        return Slot(max(free_s, uploaded_s), False, free_s <= uploaded_s + self._rules.poll_s / 2)

    def take(self, jobs: list[PendingJob]) -> Slot:
        upload_bytes = sum(job.upload_bytes for job in jobs)
        slot = self.place(upload_bytes)
        heappop(self._free)
        self.uplink_free_s += upload_bytes / self._cloud.upload_bytes_per_s
        heappush(self._free, (slot.start_s + sum(job.audio_s for job in jobs) / self._cloud.real_time_factor, False))
        return slot


def containers_free_s(cloud: Cloud) -> list[float]:
    """When each container that runs, comes or idles will be free. A call that needed none waits for the first of them."""
    free = [0.0] * cloud.idle_containers + [_ends_in_s(call, cloud) for call in cloud.calls if call.has_started or call.needs_container]
    heapify(free)
    for call in cloud.calls:
        if not call.has_started and not call.needs_container:
            first_s = heappop(free) if free else cloud.cold_start_s
            heappush(free, max(first_s, starts_in_s(call, cloud)) + call.audio_s / cloud.real_time_factor)
    return sorted(free)


def starts_in_s(call: Call, cloud: Cloud) -> float:
    """Of one that has not started, if its container is not the one that keeps it waiting."""
    uploaded_s = call.upload_left_bytes / cloud.upload_bytes_per_s
    return max(0.0, uploaded_s + cloud.cold_start_s - call.since_s) if call.needs_container else uploaded_s


def _ends_in_s(call: Call, cloud: Cloud) -> float:
    run_s = call.audio_s / cloud.real_time_factor
    return max(0.0, run_s - call.since_s) if call.has_started else starts_in_s(call, cloud) + run_s
