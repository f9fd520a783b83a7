"""/metrics for Prometheus: what all processes have counted in Redis, and what this one sees itself."""

from collections.abc import Iterator
from platform import python_version

from flask import Blueprint, Flask, Response, current_app, request
from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from core.errors import StorageUnavailable
from core.file_store import FileStore
from service.collaborators import Collaborators
from service.job_metrics import JobMetrics, gauge
from service.traffic import Traffic

api = Blueprint("metrics", __name__)
EXTENSION = "spillway_metrics"


class ServiceMetrics(Collector):
    def __init__(self, collaborators: Collaborators, version: str) -> None:
        self._collaborators, self._version = collaborators, version

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("spillway_build_info", "1, with the version that runs.", labels=["version", "python"])
        build.add_metric([self._version, python_version()], 1)
        yield build
        yield from _file_store(self._collaborators.files)
        streams = self._collaborators.event_streams
        yield gauge("spillway_event_streams", "Event streams that are open.", streams.taken)
        yield gauge("spillway_event_streams_limit", "Event streams that may be open.", streams.count)
        long = self._collaborators.long_requests
        yield gauge("spillway_long_requests", "Uploads and event streams under way.", long.taken)
        yield gauge("spillway_long_requests_limit", "Uploads and event streams that may be under way.", long.count)


def _file_store(files: FileStore) -> Iterator[Metric]:
    """Nothing of a file store that does not answer: /readyz says so."""
    try:
        yield gauge("spillway_file_store_free_bytes", "Room in the file store.", files.free_bytes())
    except (OSError, StorageUnavailable):
        return


def register(app: Flask, collaborators: Collaborators, version: str) -> None:
    # In Prometheus' own format they are one family more for each counter, and nobody asks for them.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    registry.register(ServiceMetrics(collaborators, version))
    registry.register(JobMetrics(collaborators.jobs, collaborators.figures, collaborators.bursts))
    ProcessCollector(registry=registry)
    Traffic(registry).register(app)
    app.extensions[EXTENSION] = registry
    app.register_blueprint(api)


@api.get("/metrics")
def get_metrics() -> Response:
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return Response(encode(current_app.extensions[EXTENSION]), content_type=content_type)
