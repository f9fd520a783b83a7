"""What the policy is told of the moment: the queue, this box, Modal, the money."""

from collections.abc import Iterable
from time import monotonic

from core.bursts import Bursts, Caps
from core.job import Job
from core.job_store import SUSPECT_AFTER, JobStore
from core.settings import Settings
from core.worker_reports import WorkerReport
from dispatcher.burst.bridge import SLOT, Bridge
from dispatcher.burst.cargo import MOST_BYTES
from dispatcher.burst.flight import Flight, Meant
from dispatcher.burst.gauges import Gauges
from dispatcher.burst.tariff import dearest_per_s
from dispatcher.burst.view import Budget, Call, Cloud, Gpu, Local, PendingJob, Rules, RunningJob, View

MOST_READ = 2_000  # pending jobs that a decision looks at: some containers' work for hours
FLAC_BYTES_PER_S = 24_000.0  # of 16 kHz speech in 24 bits: half of what the samples take


def rules_of(settings: Settings) -> Rules:
    return Rules(
        container_dollars_per_s=dearest_per_s(settings.modal_gpus),
        target_wait_s=settings.target_wait_s,
        containers_max=settings.modal_max_containers,
        scale_down_s=settings.modal_scaledown_s,
    )


def caps_of(settings: Settings) -> Caps:
    return Caps(settings.burst_day_usd, settings.burst_month_usd)


class Moments:
    """Raises `StoreUnavailable`."""

    def __init__(self, jobs: JobStore, bursts: Bursts, gauges: Gauges, settings: Settings) -> None:
        self._jobs, self._bursts, self._gauges, self._settings = jobs, bursts, gauges, settings
        self._idle_until: list[float] = []  # of containers whose last call has ended, by the monotonic clock

    def now(self, bridge: Bridge) -> View:
        self._gauges.read()
        of_day, of_month = self._bursts.committed_usd()
        return View(
            now_s=monotonic(),
            pending=tuple(self._pending()),
            local=self._local(),
            cloud=self._cloud(bridge),
            budget=Budget(self._settings.burst_day_usd - of_day, self._settings.burst_month_usd - of_month),
            rules=rules_of(self._settings),
        )

    def begun(self, flight: Flight, *, needs_container: bool) -> None:
        """A call without a container of its own takes one that idles, or waits for the next that is free."""
        if not needs_container:
            flight.meant = Meant.IDLE if self._idle_until else Meant.NEXT
            self._idle_until = self._idle_until[1:]

    def container_is_free(self, flights: Iterable[Flight]) -> None:
        """One has ended its call: the first that was meant for the next one has it, or else it idles. `flights`: under way, in order."""
        for flight in flights:
            if flight.meant == Meant.NEXT:
                flight.meant, flight.freed = Meant.IDLE, monotonic()
                return
        self._idle_until.append(monotonic() + self._settings.modal_scaledown_s)

    def _pending(self) -> Iterable[PendingJob]:
        now_s, travels = self._jobs.clock_s(), self._settings.file_store is None
        for job in self._jobs.pending(most=MOST_READ):
            yield PendingJob(
                id=job.id,
                audio_s=job.work_s,
                age_s=max(0.0, now_s - job.created_at),
                upload_bytes=round(job.work_s * FLAC_BYTES_PER_S) if travels else 0,
                is_local_only=job.options.local_only or bool(job.burst_failures or job.failures) or self._is_too_long(job, travels),
                is_suspect=job.losses >= SUSPECT_AFTER,
            )

    def _is_too_long(self, job: Job, travels: bool) -> bool:
        """For one call, which Modal ends at its time, and whose recordings are in our memory."""
        is_too_large = travels and job.work_s * FLAC_BYTES_PER_S > MOST_BYTES
        return is_too_large or job.work_s / self._gauges.real_time_factor > self._gauges.longest_s

    def _local(self) -> Local:
        running = [job for job in self._jobs.running() if job.slot != SLOT]
        return Local(
            gpus=tuple(_gpu(worker, running) for worker in self._jobs.workers() if worker.fit),
            real_time_factor=self._jobs.backlog().real_time_factor,
            jobs_in_flight_max=self._settings.max_jobs_in_flight,
            audio_in_flight_max_s=self._settings.max_audio_in_flight_s,
        )

    def _cloud(self, bridge: Bridge) -> Cloud:
        calls = tuple(self._call(flight) for flight in bridge.flights.values() if flight.jobs)
        busy = sum(call.has_started for call in calls)
        self._idle_until = [until for until in self._idle_until if until > monotonic()]
        idle = len(self._idle_until) + sum(flight.meant == Meant.IDLE and flight.called is None for flight in bridge.flights.values())
        return Cloud(
            cold_start_s=self._gauges.cold_start_s,
            real_time_factor=self._gauges.real_time_factor,
            upload_bytes_per_s=self._gauges.upload_bytes_per_s,
            calls=calls,
            idle_containers=max(0, min(idle, self._settings.modal_max_containers - busy)),
            is_breaker_open=bridge.breaker.is_open or (bridge.breaker.is_tried and bool(bridge.flights)),
            is_tried=bridge.breaker.is_tried,
        )

    def _call(self, flight: Flight) -> Call:
        """Nobody tells when a container begins a call: it has once its upload is over and, as it was meant, a cold start as it was
        measured, or the call before it."""
        since_s = monotonic() - max(flight.called or flight.began, flight.freed or 0.0)
        start_s = self._gauges.cold_start_s if flight.meant == Meant.NEW else 0.0
        is_begun = flight.called is not None and flight.meant != Meant.NEXT and since_s > start_s
        has_started = flight.has_started or is_begun
        return Call(
            id=flight.burst.id,
            audio_s=flight.audio_s,
            has_started=has_started,
            since_s=max(0.0, since_s - start_s) if has_started else since_s,
            upload_left_bytes=0 if flight.called is not None else round(flight.audio_s * FLAC_BYTES_PER_S),
            needs_container=flight.meant == Meant.NEW,
        )


def _gpu(worker: WorkerReport, running: Iterable[Job]) -> Gpu:
    held = [job for job in running if job.slot == worker.slot]
    return Gpu(
        running=tuple(RunningJob(job.work_s, job.work_s * (1 - job.progress)) for job in held),
        is_alone=any(job.losses >= SUSPECT_AFTER for job in held),
    )
