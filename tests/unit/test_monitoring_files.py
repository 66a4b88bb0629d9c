"""What is shipped for Prometheus and Grafana: each file fits the metrics, the runbook, and what it names."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from bdlab.sink import SinkMetrics
from tests.monitoring import ALERTS, DASHBOARDS, NAME, RECORDED, ROOT, documented, page_problems, panels


def sink_scrape(registry: CollectorRegistry) -> str:
    return generate_latest(registry).decode()


def test_the_page_has_every_metric_of_the_api_and_no_other(api: httpx.Client) -> None:
    assert api.post("/predict", json={"text": "good"}).is_success
    scrape = api.get("/metrics").text
    assert page_problems("serve", scrape) == []
    assert page_problems("serve", scrape.replace("bdlab_predictions_total", "bdlab_other_total"))


def test_the_page_has_every_metric_of_the_sink_and_no_other() -> None:
    metrics = SinkMetrics()
    metrics.expiries(lambda: {"vault_token": 1.0})
    metrics.stopped({1: "a gap"})
    metrics.lag({1: 3})
    SinkMetrics(metrics)
    assert page_problems("consume", sink_scrape(metrics.registry)) == []
    text = sink_scrape(metrics.registry)
    assert 'bdlab_credential_expiry_timestamp_seconds{credential="vault_token"} 1.0' in text
    # Counters are there before the first of what they count, so that a rate sees the first one.
    assert 'bdlab_sink_dead_letters_total{reason="undecodable"} 0.0' in text
    assert 'bdlab_sink_retries_total{error="DatabaseUnavailable"} 0.0' in text


def test_each_alert_says_how_bad_it_is_and_links_to_its_section() -> None:
    headings = re.findall(r"^### (Alert \w+)$", (ROOT / "docs/operations.md").read_text("utf-8"), re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    linked = set()
    for alert in ALERTS:
        assert alert["labels"]["severity"] in {"warning", "critical"}
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["description"].endswith(".")
        page, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        assert page == "{{ $externalLabels.docs }}/operations.html"
        linked.add(anchor)
    assert linked == anchors
    assert len(linked) == len(ALERTS)


def test_every_alert_is_tested_by_promtool_both_ways() -> None:
    tests = yaml.safe_load((ROOT / "infra/prometheus/tests/rules.yml").read_text("utf-8"))["tests"]
    fires: set[str] = set()
    quiet: set[str] = set()
    for test in tests:
        for case in test["alert_rule_test"]:
            (fires if case["exp_alerts"] else quiet).add(case["alertname"])
    assert fires == quiet == {alert["alert"] for alert in ALERTS}


def test_every_series_that_is_asked_for_exists() -> None:
    known = {rule["record"] for rule in RECORDED} | {"bdlab_http_request_seconds"}
    for section in ("serve", "consume", "quality"):
        for name, (kind, _) in documented(section).items():
            known |= {f"{name}_{part}" for part in ("bucket", "sum", "count")} if kind == "histogram" else {name}
    asked = [rule["expr"] for rule in (*ALERTS, *RECORDED)]
    asked += [target["expr"] for file in DASHBOARDS for panel in panels(file) for target in panel["targets"]]
    for expression in asked:
        names = set(NAME.findall(re.sub(r'"[^"]*"', "", expression)))
        assert names <= known, expression


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_each_dashboard_can_be_read(file: Path) -> None:
    dashboard = json.loads(file.read_text("utf-8"))
    assert dashboard["uid"] == file.stem
    assert dashboard["title"].startswith("bdlab: ")
    (source,) = dashboard["templating"]["list"]
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert {panel["datasource"]["uid"], *(target["datasource"]["uid"] for target in panel["targets"])} == {
            f"${{{source['name']}}}"
        }
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_grafana_is_told_where_both_are() -> None:
    folder = ROOT / "infra/grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text("utf-8"))["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards/bdlab.yml").read_text("utf-8"))["providers"]
    compose = yaml.safe_load((ROOT / "infra/docker-compose.yml").read_text("utf-8"))["services"]
    mounts = dict(mount.split(":")[:2] for mount in compose["grafana"]["volumes"])
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    assert source["url"] == "${BDLAB_PROMETHEUS_URL}"
    assert compose["grafana"]["environment"]["BDLAB_PROMETHEUS_URL"] == "http://prometheus:9090"
    for name in ("prometheus", "grafana"):
        assert compose[name]["profiles"] == ["monitoring"]
        assert all(port.startswith("127.0.0.1:") for port in compose[name]["ports"])
