"""/metrics: read from the job store when Prometheus asks, so that nothing has to be kept up to date."""

from collections.abc import Iterator

from flask import Blueprint, Response, current_app
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from core.errors import StoreUnavailable
from core.file_store import FileStore
from core.job_store import JobStore
from service.collaborators import Collaborators

api = Blueprint("metrics", __name__)
EXTENSION = "spillway_metrics"


class JobMetrics(Collector):
    def __init__(self, jobs: JobStore, files: FileStore) -> None:
        self._jobs, self._files = jobs, files

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("spillway_file_store_free_bytes", "Room in the file store.", self._files.free_bytes())
        try:
            metrics = [*self._backlog(), self._workers(), self._events()]
        except StoreUnavailable:
            metrics = []
        yield GaugeMetricFamily("spillway_job_store_up", "Whether Redis answered this scrape.", bool(metrics))
        yield from metrics

    def _backlog(self) -> Iterator[Metric]:
        backlog = self._jobs.backlog()
        jobs = GaugeMetricFamily("spillway_jobs", "Jobs that have not ended.", labels=["state"])
        audio = GaugeMetricFamily("spillway_audio_seconds", "Audio seconds of jobs that have not ended.", labels=["state"])
        jobs.add_metric(["queued"], backlog.queued_jobs)
        jobs.add_metric(["fetching"], backlog.fetching_jobs)
        jobs.add_metric(["running"], backlog.running_jobs)
        audio.add_metric(["queued"], backlog.queued_audio_s)
        audio.add_metric(["running"], backlog.running_audio_s)
        yield from (jobs, audio)
        if backlog.real_time_factor is not None:
            yield GaugeMetricFamily("spillway_real_time_factor", "Audio seconds per second, recent jobs.", backlog.real_time_factor)

    def _workers(self) -> Metric:
        workers = GaugeMetricFamily("spillway_workers", "Workers heard of lately.", labels=["fit"])
        fit = [worker.fit for worker in self._jobs.workers()]
        workers.add_metric(["true"], fit.count(True))
        workers.add_metric(["false"], fit.count(False))
        return workers

    def _events(self) -> Metric:
        events = CounterMetricFamily("spillway_job_events", "Jobs by what became of them, and runners lost, ever.", labels=["event"])
        for name, count in sorted(self._jobs.counters().items()):
            events.add_metric([name], count)
        return events


def registry(collaborators: Collaborators) -> CollectorRegistry:
    own = CollectorRegistry()
    own.register(JobMetrics(collaborators.jobs, collaborators.files))
    ProcessCollector(registry=own)
    return own


@api.get("/metrics")
def get_metrics() -> Response:
    return Response(generate_latest(current_app.extensions[EXTENSION]), content_type=CONTENT_TYPE_LATEST)
