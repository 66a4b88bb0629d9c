"""What is shipped for Prometheus and Grafana, and the page of the metrics, read for the tests."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[1]
DASHBOARDS = sorted((ROOT / "infra/grafana/dashboards").glob("*.json"))
ALERTS = yaml.safe_load((ROOT / "infra/prometheus/rules/alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
RECORDED = yaml.safe_load((ROOT / "infra/prometheus/rules/recording.yml").read_text("utf-8"))["groups"][0]["rules"]
#: A metric, or a series that a rule records.
NAME = re.compile(r"\b(?:\w+:)?bdlab[:_]\w+(?::\w+)?")


def documented(section: str) -> dict[str, tuple[str, set[str]]]:
    """The metrics of a table of docs/metrics.md: name -> type and labels."""
    text = (ROOT / "docs/metrics.md").read_text("utf-8").partition(f"\n## `bdlab {section}")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(bdlab_\w+)` \| (\w+) \|[^|]+\|([^|]*)\|", text, re.MULTILINE)
    found = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    # The page has these in one line.
    others = {name.replace("sink", "feedback_sink"): one for name, one in found.items() if "bdlab_sink" in name}
    return found | others


def exported(text: str) -> dict[str, tuple[str, set[str]]]:
    """The metrics of a scrape, as `documented` has them; a metric without a sample has no labels."""
    found: dict[str, tuple[str, set[str]]] = {}
    for family in text_string_to_metric_families(text):
        if family.name.endswith("_created"):
            continue
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, labels)
    return found


def page_problems(section: str, scrape: str) -> list[str]:
    """Where the page and a scrape differ; labels are compared if there is a sample."""
    page, found = documented(section), exported(scrape)
    problems = [f"not on the page: {name}" for name in found.keys() - page.keys()]
    problems += [f"not exported: {name}" for name in page.keys() - found.keys()]
    for name in page.keys() & found.keys():
        if page[name][0] != found[name][0] or (found[name][1] and page[name][1] != found[name][1]):
            problems.append(f"{name} is {found[name]}, and on the page {page[name]}")
    return problems


def panels(dashboard: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(dashboard.read_text("utf-8"))["panels"]
    return found
