"""A scrape of /metrics, read with Prometheus' own client, and a box that has something to tell."""

from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from core.figures import Figures, Memory, WorkerFigures
from core.job import JobFailure
from core.job_store import Runner
from core.worker_reports import WorkerReport
from tests.service.box import RUNNER, Box


def scraped(box: Box) -> dict[str, Metric]:
    text = box.http.get("/metrics").get_data(as_text=True)
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(families: dict[str, Metric], name: str, **labels: str) -> float:
    """Of the one series whose name and labels these are."""
    samples = [sample for family in families.values() for sample in family.samples if (sample.name, sample.labels) == (name, labels)]
    assert len(samples) == 1, f"{name} {labels}: {len(samples)} series"
    return samples[0].value


def make_busy(box: Box) -> None:
    """Everything that is counted happens once."""
    box.submitted()
    box.jobs.succeed(box.claim(), result_key="r", stages_s={"asr": 1.5})
    box.submitted()
    box.jobs.fail(box.claim(), JobFailure(code="engine_failed", message="m"))
    box.submitted(priority="high")
    box.jobs.report_worker(WorkerReport("gpu0", True, "", "cuda", "tiny"), ttl_s=60)
    box.jobs.report_worker(WorkerReport("gpu1", False, "no GPU", "cuda", "tiny"), ttl_s=60)
    counts = {"batches:asr": 4, "batch_windows:asr": 50, "batch_room:asr": 64, "batch_ms:asr": 2500, "out_of_memory:asr": 1}
    Figures(box.redis).report(RUNNER, WorkerFigures(counts, None))
    Figures(box.redis).report(Runner("gpu0", "boot"), WorkerFigures({}, Memory(6 * 2**30, 8 * 2**30)))
