"""The dashboard, the alerts and the configuration of Prometheus: they name what there is, in the form they need."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from telepatch_server.common_metrics import OWN, SHARED
from telepatch_server.metrics import Metrics

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "telepatch.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ALERTS = [rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
CONFIGURATION = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
OF_PROMETHEUS = {"instance", "job", "le"}


def exposed() -> dict[str, set[str]]:
    """Every name that a query can use, with its labels."""
    found = {"up": set[str]()}
    for measure in (*OWN, *SHARED):
        ends = ("_bucket", "_sum", "_count") if measure.kind == "histogram" else ("",)
        found |= {measure.name + end: set(measure.labels) for end in ends}
    metrics = Metrics()
    metrics.request("GET /", 200, 0.1)
    metrics.submitted("queued")
    for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? ", metrics.exposition(), re.M):
        found[name] = set(re.findall(r'(\w+)="', labels))
    return found


def queries() -> Iterator[tuple[str, str]]:
    for panel in PANELS:
        yield from ((f"panel {panel['title']}", target["expr"]) for target in panel["targets"])
    yield from ((rule["alert"], rule["expr"]) for rule in ALERTS)


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_a_query_names_metrics_and_labels_that_there_are(where: str, query: str):
    known = exposed()
    names = re.findall(r"\b(telepatch_\w+|up)\b(?:\{([^}]*)\})?", query)
    assert names, where
    for name, inside in names:
        assert name in known, f"{where}: {name}"
        assert set(re.findall(r"(\w+)\s*[=!]~?\s*\"", inside)) <= known[name] | OF_PROMETHEUS, f"{where}: {inside}"
    labels = set().union(*(known[name] for name, _ in names)) | OF_PROMETHEUS
    for grouped in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", query):
        assert set(re.findall(r"\w+", grouped)) <= labels, f"{where}: {grouped}"


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_what_every_gateway_tells_alike_is_not_added_up(where: str, query: str):
    shared = "|".join(sorted(measure.name for measure in SHARED))
    outer = re.sub(r"(?:max|min)(?: by \([^)]*\))? \((?:[^()]|\([^()]*\)|\((?:[^()]|\([^()]*\))*\))*\)", "", query)
    assert not re.search(rf"\bsum\b[^|]*\b(?:{shared})", outer), where


def test_queries_have_as_many_brackets_that_open_as_close():
    for where, query in queries():
        for one, other in ("()", "{}", "[]"):
            assert query.count(one) == query.count(other), where


def test_the_dashboard_is_one_that_grafana_can_import():
    assert DASHBOARD["uid"] == "telepatch"
    assert DASHBOARD["id"] is None
    assert DASHBOARD["title"]
    assert DASHBOARD["schemaVersion"] >= 36
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in PANELS:
        assert panel["title"]
        assert panel["type"] in {"stat", "timeseries", "heatmap"}
        assert panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_every_panel_asks_the_datasource_that_the_reader_chooses():
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert variables["model"]["datasource"] == chosen
    for panel in PANELS:
        assert panel["datasource"] == chosen
        assert all(target["datasource"] == chosen for target in panel["targets"])
    used = set(re.findall(r"\$(\w+)", " ".join(query for _, query in queries()))) - {"labels", "value"}
    assert used == {"model", "__rate_interval"}


def test_panels_lie_beside_each_other_and_within_the_page():
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y


def test_every_metric_is_on_the_dashboard_or_says_by_itself_too_little():
    shown = " ".join(query for _, query in queries())
    hidden = {measure.name for measure in (*OWN, *SHARED) if measure.name not in shown}
    assert hidden == {"telepatch_worker_started_seconds"}


def test_an_alert_says_how_bad_it_is_what_happened_and_what_to_do():
    names = [rule["alert"] for rule in ALERTS]
    assert len(names) == len(set(names))
    for rule in ALERTS:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}


def test_prometheus_reads_the_alerts_and_asks_gateways():
    assert [name for name in CONFIGURATION["rule_files"] if not (FOLDER / name).is_file()] == []
    [scraped] = CONFIGURATION["scrape_configs"]
    assert (scraped["job_name"], scraped["metrics_path"]) == ("telepatch", "/metrics")
    alerted: Any = re.findall(r'job="(\w+)"', " ".join(rule["expr"] for rule in ALERTS))
    assert set(alerted) == {scraped["job_name"]}


def test_promtool_finds_no_fault_where_it_is_installed():
    promtool = shutil.which("promtool")
    if promtool:  # elsewhere, what this machine can check is checked above
        done = subprocess.run(
            [promtool, "check", "rules", str(FOLDER / "alerts.yml")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
