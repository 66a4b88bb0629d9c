"""The OpenAPI document, the page that shows it, and the metrics."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import httpx

from bdlab.serving.problems import PROBLEM_JSON

ROUTES = {
    "/predict": "post",
    "/predict/batch": "post",
    "/health": "get",
    "/health/live": "get",
    "/health/ready": "get",
    "/vault-status": "get",
    "/kafka-status": "get",
    "/predictions": "get",
    "/predictions/{prediction_id}": "get",
    "/metrics": "get",
}


class _Loads(HTMLParser):
    """What a browser would fetch to show the page."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        if tag in ("script", "img", "iframe") or (tag == "link" and names.get("href")):
            self.loads.append(str(names.get("src") or names.get("href")))


def test_every_route_is_in_the_document(api: httpx.Client) -> None:
    document = api.get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert {path: next(iter(item)) for path, item in document["paths"].items()} == ROUTES


def test_the_document_has_bodies_and_problems(api: httpx.Client) -> None:
    predict = api.get("/openapi.json").json()["paths"]["/predict"]["post"]
    body = predict["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["text"]
    assert set(body["properties"]) == {"text", "summary", "HelpfulnessNumerator", "HelpfulnessDenominator"}
    assert {parameter["name"] for parameter in predict["parameters"]} == {"Idempotency-Key", "traceparent"}
    assert set(predict["responses"]) == {"200", "413", "415", "422", "503"}
    assert PROBLEM_JSON in predict["responses"]["422"]["content"]


def test_the_page_shows_every_route_and_loads_nothing_from_elsewhere(api: httpx.Client) -> None:
    answer = api.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    shown = set(re.findall(r"<h3><code>(?:GET|POST) ([^<]+)</code></h3>", answer.text))
    assert shown == set(ROUTES)
    parser = _Loads()
    parser.feed(answer.text)
    assert parser.loads == []


def test_swagger_ui_is_there_for_who_has_a_network(api: httpx.Client) -> None:
    assert "swagger-ui" in api.get("/docs/swagger").text


def test_requests_and_predictions_are_counted(api: httpx.Client) -> None:
    api.post("/predict", json={"text": "good"})
    api.post("/predict", json={"text": ""})
    api.post("/predict/batch", json=[{"text": "a"}, {"text": "b"}])
    api.get("/nothing/at/all")
    text = api.get("/metrics").text
    for line in (
        'bdlab_http_requests_total{method="POST",route="/predict",status="200"} 1.0',
        'bdlab_http_requests_total{method="POST",route="/predict",status="422"} 1.0',
        'bdlab_http_requests_total{method="GET",route="unmatched",status="404"} 1.0',
        'bdlab_predictions_total{outcome="acknowledged"} 3.0',
        'bdlab_predictions_total{outcome="not_acknowledged"} 0.0',
        "bdlab_predictions_in_flight 0.0",
        "bdlab_acknowledgement_seconds_count 3.0",
    ):
        assert line in text.splitlines()
