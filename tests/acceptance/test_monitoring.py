"""A real Prometheus scrapes a running pipeline: every query of the dashboards and rules finds what it asks for."""

from __future__ import annotations

import math
import ssl
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from bdlab.certificates import CertificateFiles, ends_at
from bdlab.stack.tls import temporary_certificates
from tests.fix_pipeline import Pipeline
from tests.fix_servers import installed_or_skip
from tests.monitoring import ALERTS, DASHBOARDS, NAME, RECORDED, ROOT, page_problems, panels
from tests.servers import prometheus
from tests.waiting import until

pytestmark = pytest.mark.long

INFRA = ROOT / "infra/prometheus"
FILES = ["bdlab-serve", "bdlab-consume"]


def test_promtool_accepts_the_configuration_and_its_tests_of_the_rules_pass() -> None:
    with installed_or_skip():
        checked = prometheus.promtool("check", "config", INFRA / "prometheus.yml")
    assert checked.returncode == 0, checked.stderr
    assert "0 rules found" not in checked.stdout
    assert checked.stdout.count("rules found") == 2
    rules = prometheus.promtool("check", "rules", *(INFRA / "rules").glob("*.yml"))
    tested = prometheus.promtool("test", "rules", INFRA / "tests/rules.yml")
    for done in (rules, tested):
        assert done.returncode == 0, done.stdout + done.stderr


def configured(folder: Path, api: httpx.Client, sink: str, ca_file: Path) -> Path:
    """The configuration that is shipped, with these two targets in place of its discoveries, and in a hurry."""
    config = yaml.safe_load((INFRA / "prometheus.yml").read_text("utf-8"))
    config["global"] |= {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(INFRA / "rules/*.yml")]
    for job, url in zip(config["scrape_configs"], (str(api.base_url), sink), strict=True):
        scheme, _, target = url.rstrip("/").partition("://")
        del job["dns_sd_configs"]
        job |= {"scheme": scheme, "static_configs": [{"targets": [target]}], "tls_config": {"ca_file": str(ca_file)}}
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    return file


@pytest.mark.plaintext("Prometheus is told of the consumer's authority only")
def test_every_query_of_the_dashboards_and_rules_finds_data(pipeline: Pipeline, tmp_path: Path) -> None:
    with installed_or_skip():
        prometheus.program("prometheus")
    files = CertificateFiles(tmp_path)
    files.write(temporary_certificates(["127.0.0.1"], ttl_s=86400)["127.0.0.1"], [], ttl_s=86400)
    shown = {f"BDLAB_SINK_TLS_{kind}_FILE": str(files.server_file) for kind in ("CERT", "KEY")}
    with (
        pipeline.daemon("consume", "--metrics-port", "0", **shown) as consumer,
        pipeline.serve("--workers", "2") as (_, api),
    ):
        sink = yaml.safe_load(consumer.wait_for("metrics are served"))["url"].removesuffix("/metrics")
        with prometheus.running(configured(tmp_path, api, sink, files.ca_file), tmp_path / "data") as client:
            _check_queries(client, api)
        trusted = ssl.create_default_context(cafile=files.ca_file)
        scrapes = {"serve": api.get("/metrics").text, "consume": httpx.get(f"{sink}/metrics", verify=trusted).text}
    for section, scrape in scrapes.items():
        assert page_problems(section, scrape) == []
        linted = prometheus.promtool("check", "metrics", stdin=scrape)
        assert linted.returncode == 0, linted.stdout + linted.stderr
    left_s = ends_at(str(files.server_file))["certificate"] - time.time()
    assert 86000 < left_s <= 86400 + 60


def _check_queries(client: httpx.Client, api: httpx.Client) -> None:
    """Ask until each has data; there are requests meanwhile, and some that are refused."""
    panel_queries = {target["expr"] for file in DASHBOARDS for panel in panels(file) for target in panel["targets"]}
    recorded = {rule["record"] for rule in RECORDED}
    inputs = {name for alert in ALERTS for name in (*NAME.findall(alert["expr"]), *_up(alert["expr"]))}
    missing = panel_queries | recorded | inputs
    missing = {name for name in missing if not name.startswith("bdlab_quality_")}  # of a file that no server has

    def all_found() -> bool:
        assert api.post("/predict", json={"text": "good"}).is_success
        assert api.post("/predict", json={"text": ""}).status_code == 422
        missing.difference_update({query for query in missing if _has_data(client, query)})
        return not missing

    try:
        until(all_found, 60)
    except AssertionError:
        raise AssertionError(f"no data: {sorted(missing)}") from None
    for alert in ALERTS:  # nothing is wrong, so that most find nothing
        _ask(client, alert["expr"])
    groups = client.get("/api/v1/rules").json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(ALERTS) + len(RECORDED)
    assert {rule["health"] for rule in rules} == {"ok"}
    targets = client.get("/api/v1/targets").json()["data"]["activeTargets"]
    assert {target["labels"]["job"]: target["health"] for target in targets} == dict.fromkeys(FILES, "up")


def _up(expression: str) -> list[str]:
    return ["up"] if "up{" in expression else []


def _has_data(client: httpx.Client, query: str) -> bool:
    return any(not math.isnan(float(sample["value"][1])) for sample in _ask(client, query))


def _ask(client: httpx.Client, query: str) -> list[dict[str, Any]]:
    answer = client.get("/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", (query, answer)
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found
