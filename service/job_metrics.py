"""What the job store tells Prometheus, read when it asks: jobs, waits, stages, batches, workers, dispatcher, outbox."""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from core.backlog import Backlog
from core.errors import StoreUnavailable
from core.figures import Figures, Memory, Snapshot
from core.job import JobState, Stage
from core.job_store import JobStore
from core.retention import Kept
from core.worker_reports import WorkerReport
from service.bursts import BurstAccounts

OUTCOMES = tuple(state.value for state in JobState if state.is_terminal)
TIMED_STAGES = tuple(stage for stage in Stage if stage not in (Stage.FETCHING, Stage.COMMIT))
MODELS = ("asr", "language", "segmentation", "embeddings")


class JobMetrics(Collector):
    def __init__(self, jobs: JobStore, figures: Figures, bursts: BurstAccounts) -> None:
        self._jobs, self._figures, self._bursts = jobs, figures, bursts

    def collect(self) -> Iterator[Metric]:
        """Redis' first refusal ends the scrape: it takes as long as one request that finds Redis away."""
        try:
            metrics = list(self._read())
        except StoreUnavailable:
            metrics = []
        is_up = bool(metrics) and self._jobs.fault() is None
        yield gauge("spillway_job_store_up", "Whether Redis answered this scrape, and takes writes.", is_up)
        yield from metrics

    def _read(self) -> Iterator[Metric]:
        snapshot, backlog, workers = self._figures.snapshot(), self._jobs.backlog(), self._jobs.workers()
        yield from _queue(snapshot)
        yield from _running(backlog)
        yield _waits(snapshot)
        yield from _jobs(snapshot.totals)
        yield from _failures(snapshot.totals)
        yield _stages(snapshot.totals)
        yield from _batches(snapshot.totals)
        yield from _workers(workers, self._figures.memory([worker.slot for worker in workers]))
        yield from _dispatcher(snapshot)
        yield from self._bursts.metrics()
        yield from _retention(snapshot)


def gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


def _queue(snapshot: Snapshot) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("spillway_queued_jobs", "Jobs that wait for a runner.", labels=["priority"])
    audio = GaugeMetricFamily("spillway_queued_audio_seconds", "Audio of the jobs that wait for a runner.", labels=["priority"])
    oldest = GaugeMetricFamily(
        "spillway_queued_oldest_seconds", "Since the job that is first by age was submitted; 0 when none waits.", labels=["priority"]
    )
    for priority, queued in snapshot.queued.items():
        jobs.add_metric([priority], queued.jobs)
        audio.add_metric([priority], queued.audio_s)
        oldest.add_metric([priority], queued.oldest_wait_s)
    yield from (jobs, audio, oldest)
    yield gauge("spillway_fetching_jobs", "Jobs whose recording is still to be fetched.", snapshot.fetching_jobs)


def _running(backlog: Backlog) -> Iterator[Metric]:
    yield gauge("spillway_running_jobs", "Jobs that a runner holds.", backlog.running_jobs)
    yield gauge("spillway_running_audio_seconds", "Audio of the jobs that a runner holds.", backlog.running_audio_s)
    factor = GaugeMetricFamily("spillway_real_time_factor", "Audio seconds per second of a busy worker, lately; none before its first job.")
    if backlog.real_time_factor is not None:
        factor.add_metric([], backlog.real_time_factor)
    yield factor


def _waits(snapshot: Snapshot) -> Metric:
    waits = HistogramMetricFamily(
        "spillway_job_wait_seconds", "From a job's submit to its first runner, the fetch of its source included.", labels=["priority"]
    )
    for priority, found in snapshot.waits.items():
        buckets = [(floatToGoString(bound), jobs) for bound, jobs in found.buckets]  # type: ignore[no-untyped-call]
        waits.add_metric([priority], buckets, found.sum_s)
    return waits


def _jobs(totals: Mapping[str, int]) -> Iterator[Metric]:
    yield _total(totals, "spillway_jobs_submitted", "Jobs accepted.", "submitted")
    yield _total(totals, "spillway_job_attempts", "Times that a runner took a job.", "attempts")
    yield _totals(totals, "spillway_jobs_ended", "Jobs by how they ended.", "outcome", {state: state for state in OUTCOMES})
    audio = {state: f"audio_ms:{state}" for state in OUTCOMES}
    yield _totals(totals, "spillway_job_audio_seconds", "Audio of jobs by how they ended.", "outcome", audio, unit=1000)
    run = {state: f"run_ms:{state}" for state in OUTCOMES}
    yield _totals(totals, "spillway_job_run_seconds", "Time in their last runner, of jobs by how they ended.", "outcome", run, unit=1000)


def _failures(totals: Mapping[str, int]) -> Iterator[Metric]:
    codes = {name.removeprefix("failed:"): name for name in sorted(totals) if name.startswith("failed:")}
    yield _totals(totals, "spillway_job_failures", "Jobs that failed, by error code.", "code", codes)
    yield _total(totals, "spillway_job_losses", "Times that a runner died with a job.", "lost_runners")
    yield _total(totals, "spillway_job_retries", "Times that a job went back after a stage broke.", "retries")
    yield _total(totals, "spillway_job_handbacks", "Times that a job went back unharmed, as when a worker is stopped.", "handbacks")


def _stages(totals: Mapping[str, int]) -> Metric:
    """Those that ran in the attempt that succeeded."""
    stages = SummaryMetricFamily("spillway_stage_seconds", "Time in a stage, of jobs that succeeded.", labels=["stage"])
    for stage in TIMED_STAGES:
        stages.add_metric([stage], totals.get(f"stages:{stage}", 0), totals.get(f"stage_ms:{stage}", 0) / 1000)
    return stages


def _batches(totals: Mapping[str, int]) -> Iterator[Metric]:
    def by_model(name: str, text: str, counter: str, unit: int = 1) -> Metric:
        return _totals(totals, name, text, "model", {model: f"{counter}:{model}" for model in MODELS}, unit=unit)

    yield by_model("spillway_batches", "Batches that a model ran.", "batches")
    yield by_model("spillway_batch_windows", "Windows of audio in those batches.", "batch_windows")
    yield by_model("spillway_batch_places", "Windows that those batches had room for.", "batch_room")
    yield by_model("spillway_batch_seconds", "Time that those batches took.", "batch_ms", 1000)
    yield by_model(
        "spillway_batch_out_of_memory",
        "Times that a batch did not fit the device's memory; the next ones are half as large.",
        "out_of_memory",
    )


def _workers(workers: Iterable[WorkerReport], memory: Mapping[str, Memory]) -> Iterator[Metric]:
    count = GaugeMetricFamily("spillway_workers", "Workers heard of lately, by whether they are fit to take jobs.", labels=["fit"])
    fit = [worker.fit for worker in workers]
    count.add_metric(["true"], fit.count(True))
    count.add_metric(["false"], fit.count(False))
    used = GaugeMetricFamily("spillway_worker_vram_used_bytes", "GPU memory in use, by whomever.", labels=["slot"])
    size = GaugeMetricFamily("spillway_worker_vram_size_bytes", "GPU memory there is.", labels=["slot"])
    for slot, found in memory.items():
        used.add_metric([slot], found.used_bytes)
        size.add_metric([slot], found.size_bytes)
    yield from (count, used, size)


def _dispatcher(snapshot: Snapshot) -> Iterator[Metric]:
    yield gauge("spillway_dispatcher_leading", "Whether a dispatcher leads.", snapshot.has_leader)
    yield _total(snapshot.totals, "spillway_sweep_wakeups", "Wake-ups that the dispatcher sent for jobs without one.", "sweep_wakeups")
    fetches = {outcome: f"fetches:{outcome}" for outcome in ("stored", "failed")}
    yield _totals(snapshot.totals, "spillway_fetches", "Tries to fetch a source, by how they ended.", "outcome", fetches)
    deliveries = {outcome: f"deliveries:{outcome}" for outcome in ("delivered", "retried", "failed", "stopped")}
    yield _totals(
        snapshot.totals, "spillway_deliveries", "Tries to deliver a webhook or an output, by how they ended.", "outcome", deliveries
    )
    yield gauge("spillway_outbox_deliveries", "Deliveries that are still owed.", snapshot.undelivered)
    yield gauge("spillway_outbox_oldest_seconds", "Since the job of the oldest of them ended.", snapshot.oldest_undelivered_s)


def _retention(snapshot: Snapshot) -> Iterator[Metric]:
    expired = {kept.value: f"expired:{kept}" for kept in Kept}
    yield _totals(snapshot.totals, "spillway_expired_jobs", "Jobs of which something was deleted in its time, by what.", "kept", expired)
    yield gauge(
        "spillway_orphan_files",
        "Files of no job that the dispatcher's last look found, and deleted.",
        snapshot.orphan_files,
    )
    yield gauge("spillway_missing_files", "Files that jobs lacked at the dispatcher's last look.", snapshot.missing_files)


def _total(totals: Mapping[str, int], name: str, text: str, counter: str) -> Metric:
    return CounterMetricFamily(name, text, totals.get(counter, 0))


def _totals(totals: Mapping[str, int], name: str, text: str, label: str, counters: Mapping[str, str], *, unit: int = 1) -> Metric:
    """A series for each of `counters`, label → total; those not raised yet are 0, so that a rate has something to begin with."""
    family = CounterMetricFamily(name, text, labels=[label])
    for value, counter in counters.items():
        family.add_metric([value], totals.get(counter, 0) / unit)
    return family
