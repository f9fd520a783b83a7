"""What is exported keeps to promtool's rules, and the page and the alerts speak of nothing else."""

import re
from collections.abc import Iterator

import pytest
import yaml
from prometheus_client.core import Metric

from tests.conftest import ROOT
from tests.service.box import Box
from tests.service.scrape import scraped

PAGE = ROOT / "docs" / "metrics.md"
ALERTS = ROOT / "docs" / "alerts.yml"
NAME = re.compile(r"\bspillway_[a-z_]+")
BOUNDED = {
    "priority",
    "outcome",
    "code",
    "kept",
    "stage",
    "model",
    "fit",
    "slot",
    "method",
    "route",
    "status",
    "window",
    "version",
    "python",
}

# Names, by promtool's rules (prometheus/client_golang, prometheus/testutil/promlint)

KINDS = ("gauge", "counter", "histogram", "summary", "untyped", "metric")
OTHER_UNITS = ("milliseconds", "ms", "minutes", "hours", "days", "s", "kilobytes", "megabytes", "mb", "gb", "bits", "percent")


def ours(box: Box) -> list[Metric]:
    return [family for family in scraped(box).values() if family.name.startswith("spillway_")]


def faults(family: Metric, name: str) -> Iterator[str]:
    parts = name.split("_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        yield "is not snake_case"
    if not family.documentation.endswith("."):
        yield "has no help text"
    if (family.type == "counter") != name.endswith("_total"):
        yield "a counter ends with _total, and nothing else does"
    if parts[-1] in ("count", "sum", "bucket", "created"):
        yield "ends as the parts of a histogram do"
    if kinds := [kind for kind in KINDS if kind in parts]:
        yield f"names its type: {kinds}"
    if units := [unit for unit in OTHER_UNITS if unit in parts]:
        yield f"is not in a base unit: {units}"
    if family.type == "unknown":
        yield "has no type"


def exported_name(family: Metric) -> str:
    """As it is written in a query; the parser takes the suffix off a counter's family."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def test_every_name_keeps_to_the_rules(busy: Box) -> None:
    assert {exported_name(family): list(faults(family, exported_name(family))) for family in ours(busy)} == {
        exported_name(family): [] for family in ours(busy)
    }


@pytest.mark.parametrize("name", ["spillway_jobs", "spillway_wait_ms_total", "spillway_job_counter_total", "spillway_Jobs_total"])
def test_the_rules_find_a_bad_name(name: str) -> None:
    assert list(faults(Metric(name, "Help.", "counter"), name))


def test_no_series_is_told_twice_and_every_family_once(busy: Box) -> None:
    text = busy.http.get("/metrics").get_data(as_text=True)
    series = [line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")]
    helps = [line.split()[2] for line in text.splitlines() if line.startswith("# HELP")]
    assert (len(series), len(helps)) == (len(set(series)), len(set(helps)))


def test_whatever_a_step_counts_is_exported() -> None:
    steps = "".join(path.read_text() for path in (ROOT / "core" / "lua").glob("*.lua"))
    counted = re.findall(r"\bcount\('([a-z_]+:?)'", steps) + re.findall(r"totals?\['([a-z_]+:)'", steps)
    exported = (ROOT / "service" / "job_metrics.py").read_text()
    assert {"submitted", "stages:", "failed:"} < set(counted)
    assert [name for name in counted if name not in exported] == []


# The page and the alerts


def rows(box: Box) -> list[str]:
    """The page's table as it must be, to be put in when this fails."""
    lines = []
    for family in sorted(ours(box), key=exported_name):
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        told = ", ".join(f"`{label}`" for label in labels)
        lines.append(f"| `{exported_name(family)}` | {family.type} | {told} | {family.documentation} |")
    return lines


def test_the_page_lists_what_is_exported_and_nothing_else(busy: Box) -> None:
    exported = rows(busy)
    listed = [line for line in PAGE.read_text().splitlines() if line.startswith("| `spillway_")]
    assert listed == exported, "put in:\n" + "\n".join(exported)


def alerts() -> list[dict[str, object]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_the_alerts_ask_for_metrics_that_exist(busy: Box) -> None:
    exported = {sample.name for family in ours(busy) for sample in family.samples}
    asked = {name for rule in alerts() for name in NAME.findall(str(rule["expr"]))}
    assert asked
    assert asked - exported == set()


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for rule in alerts():
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}, rule
        assert set(rule["labels"]) == {"severity"}  # type: ignore[call-overload]
        assert set(rule["annotations"]) == {"summary", "description"}  # type: ignore[call-overload]
        assert str(rule["expr"]).count("(") == str(rule["expr"]).count(")")


def test_the_page_explains_every_alert() -> None:
    page = PAGE.read_text()
    assert [rule["alert"] for rule in alerts() if f"`{rule['alert']}`" not in page] == []


def test_the_pages_scrape_config_is_yaml_that_sends_the_key() -> None:
    block = re.search(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    config = yaml.safe_load(block[1])["scrape_configs"][0]
    assert config["authorization"] == {"type": "Bearer", "credentials_file": "/etc/prometheus/spillway_key"}
    assert config["metrics_path"] == "/metrics"


def test_no_label_can_take_endless_values(busy: Box) -> None:
    labels = {label for family in ours(busy) for sample in family.samples for label in sample.labels}
    assert labels - {"le"} == BOUNDED
