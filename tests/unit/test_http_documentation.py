"""The OpenAPI document, the page that shows it, and the metrics."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from bdlab import serving as package
from bdlab.contract import Contract
from bdlab.events import codec_of
from bdlab.serving import make_app
from bdlab.serving.problems import PROBLEM_JSON
from bdlab.serving.responses import encode_json
from bdlab.settings import HttpSettings, Settings
from tests.fix_api import MemoryApi, serving
from tests.plants import CONTRACT, PLANT, PlantScorer
from tests.random_contracts import contracts

NOTICE = Path(str(package.__file__)).with_name("swagger_ui") / "NOTICE"
ANYWHERE = {"400", "408", "421", "422", "431", "500", "503"}
ROUTES = {
    "/predict": "post",
    "/predict/batch": "post",
    "/feedback": "post",
    "/feedback/batch": "post",
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
        if tag in ("script", "img", "iframe", "link") and (url := names.get("src") or names.get("href")):
            self.loads.append(url)


def test_every_route_is_in_the_document(api: httpx.Client) -> None:
    document = api.get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert {path: next(iter(item)) for path, item in document["paths"].items()} == ROUTES


def test_the_document_has_bodies_and_problems(api: httpx.Client) -> None:
    predict = api.get("/openapi.json").json()["paths"]["/predict"]["post"]
    body = predict["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["text"]
    assert set(body["properties"]) == {"text", "summary", "HelpfulnessNumerator", "HelpfulnessDenominator"}
    names = {parameter["name"] for parameter in predict["parameters"]}
    assert names == {"Idempotency-Key", "traceparent", "Bdlab-Source"}
    assert set(predict["responses"]) == {"200", "401", "403", "413", "415", "429", *ANYWHERE}
    assert PROBLEM_JSON in predict["responses"]["422"]["content"]


def test_the_document_has_the_answers_that_are_given(api: httpx.Client) -> None:
    paths = api.get("/openapi.json").json()["paths"]
    kinds = {
        (path, status): list(answer["content"])
        for path, item in paths.items()
        for operation in item.values()
        for status, answer in operation["responses"].items()
    }
    for path in ROUTES:
        assert {status for each, status in kinds if each == path} >= {"200", *ANYWHERE}
        assert all(PROBLEM_JSON in kinds[path, status] for status in ANYWHERE)
    for path, bad in (("/predictions", "?limit=x"), ("/predictions/{prediction_id}", "/x")):
        answer = api.get("/predictions" + bad)
        assert (answer.status_code, kinds[path, "422"]) == (422, [answer.headers["content-type"]])
    for path in ("/health", "/health/ready", "/vault-status", "/kafka-status"):
        assert kinds[path, "503"] == ["application/json", PROBLEM_JSON]
    assert kinds["/metrics", "200"] == ["text/plain"]
    assert api.get("/metrics").headers["content-type"].count("charset") == 1


def test_the_document_says_what_is_enforced(api: httpx.Client) -> None:
    paths = api.get("/openapi.json").json()["paths"]
    review = paths["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert review["additionalProperties"] is True
    assert {"enum": list(review["properties"])} in review["propertyNames"]["anyOf"]
    assert review["properties"]["HelpfulnessNumerator"] == {
        "type": "integer", "minimum": 0, "maximum": 2**31 - 1, "default": 1,
    }  # fmt: skip
    batch = paths["/predict/batch"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert (batch["minItems"], batch["maxItems"], batch["items"]) == (1, 100, review)
    key, _, source = paths["/predict"]["post"]["parameters"]
    assert source["schema"]["enum"] == ["drill", "demo"]
    assert (key["schema"]["minLength"], key["schema"]["maxLength"]) == (1, 255)
    limit, source, *_ = paths["/predictions"]["get"]["parameters"]
    assert source["schema"]["enum"] == ["all", "demo", "drill", "predict", "real", "serve"]
    assert source["schema"]["default"] == "real"
    assert (limit["name"], limit["in"], limit["required"]) == ("limit", "query", False)
    assert "How many" in limit["description"]
    bounds = {name: limit["schema"][name] for name in ("type", "minimum", "maximum", "default")}
    assert bounds == {"type": "integer", "minimum": 1, "maximum": 1000, "default": 10}
    (found,) = paths["/predictions/{prediction_id}"]["get"]["parameters"]
    assert found["schema"] == {"type": "string", "format": "uuid"}
    assert paths["/predict"]["post"]["responses"]["503"]["headers"]["Retry-After"]


@pytest.fixture
def plants() -> Iterator[httpx.Client]:
    api = MemoryApi(scorer=PlantScorer())
    with api.producer, serving(api.parts) as client:
        yield client


def test_the_document_of_another_contract_is_valid_and_says_its_fields(plants: httpx.Client) -> None:
    document = plants.get("/openapi.json").json()
    OPENAPI_31_VALIDATOR.validate(document)
    assert document["info"]["description"].startswith("Predictions from garden plants; each is durable")
    one, many = (document["paths"][path]["post"] for path in ("/predict", "/predict/batch"))
    assert one["summary"] == "Predict from one garden plant"
    assert many["summary"] == "Predict from a list of garden plants"
    assert "not a valid garden plant" in one["responses"]["422"]["description"]
    assert "review" not in json.dumps(document)
    schema = one["requestBody"]["content"]["application/json"]["schema"]
    found = schema["properties"]
    assert list(found) == [field.name for field in CONTRACT.inputs]
    assert (schema["title"], schema["required"]) == ("Garden plant", list(PLANT))
    assert found["Name"]["description"] == "As on its label"
    assert (found["Name"]["minLength"], found["Name"]["maxLength"]) == (2, 20)
    assert found["Fruit colour"] == {"type": ["string", "null"], "enum": ["red", "blue", None]}
    assert found["seeds"] == {"type": ["integer", "null"], "maximum": 1000, "minimum": -(2**63)}
    assert found["height (cm)"] == {"type": "number", "maximum": 300.5, "minimum": 0}
    assert found["planted_at"] == {"type": "string", "format": "date-time"}
    assert found["isWild"] == {"type": "boolean", "default": False}
    answer = document["components"]["schemas"]["Answer"]
    assert list(answer["properties"]) == [
        "id", "prediction", "confidence", "probabilities", "rank", "rare", "blooms_at",
        "explanation", "model", "created_at", "known_terms", "warning",
    ]  # fmt: skip
    assert answer["properties"]["prediction"] == {"type": "string", "enum": ["rose", "tulip"]}
    assert set(answer["required"]) == set(answer["properties"])

    (example,) = schema["examples"]
    assert plants.post("/predict", json=example).status_code == 200


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(contracts())
def test_the_document_of_any_contract_is_valid(contract: Contract) -> None:
    scorer = PlantScorer()
    scorer.codec = codec_of(contract)

    async def document() -> bytes:
        app: Any = make_app(MemoryApi(scorer=scorer).parts())
        return encode_json(app.framework.openapi_schema.to_schema())

    OPENAPI_31_VALIDATOR.validate(json.loads(asyncio.run(document())))


def test_another_contract_is_answered_by_its_fields(plants: httpx.Client) -> None:
    found = plants.post("/predict", json=PLANT | {"seeds": 7, "edible": True, "moved_at": PLANT["planted_at"]})
    assert found.status_code == 200
    answer = found.json()
    assert {name: answer[name] for name in ("prediction", "probabilities", "rank", "rare", "blooms_at")} == {
        "prediction": "rose",
        "probabilities": {"rose": 0.75, "tulip": 0.25},
        "rank": 7,
        "rare": False,
        "blooms_at": "2026-05-01T00:00:00Z",
    }
    assert (answer["explanation"], answer["known_terms"], answer["warning"]) == ([], None, None)
    stored = plants.get(f"/predictions/{answer['id']}").json()
    moment = "2026-01-31T10:00:00Z"
    assert (stored["planted_at"], stored["leaf_colour"], stored["edible"]) == (moment, "it's white", True)
    (same, wild) = plants.post("/predict/batch", json=[PLANT, PLANT | {"isWild": True, "petals": 4}]).json()
    assert (same["prediction"], wild["prediction"], wild["rare"]) == ("rose", "tulip", True)

    refused = plants.post("/predict/batch", json=[PLANT, PLANT | {"petals": "4", "Leaf colour": None}]).json()
    assert refused["type"] == "urn:bdlab:problem:invalid-garden-plant"
    assert refused["title"] == "The garden plant cannot be predicted from"
    assert [(error["index"], error["field"]) for error in refused["errors"]] == [(1, "Leaf colour"), (1, "petals")]
    assert plants.get("/health").json()["model_loaded"] is True
    metrics = plants.get("/metrics").text
    assert not [field.name for field in CONTRACT if field.name in metrics and field.name != "prediction"]


def test_head_is_answered_as_get_is_without_its_body(api: httpx.Client) -> None:
    for path in ("/health/live", "/docs"):
        answer = api.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
    assert api.head("/predict").status_code == 405


def test_a_wrong_path_is_told_where_the_right_ones_are(api: httpx.Client) -> None:
    assert api.get("/").json()["detail"] == "There is no GET /; /docs lists what there is."
    answer = api.get("/predict")
    assert answer.status_code == 405
    assert answer.json()["detail"].startswith("There is no GET /predict;")


@pytest.mark.parametrize("path", ["/docs", "/docs/swagger"])
def test_the_page_shows_the_document_and_loads_nothing_from_elsewhere(api: httpx.Client, path: str) -> None:
    answer = api.get(path)
    assert answer.headers["content-type"].startswith("text/html")
    shown = re.findall(r'url: "([^"]+)"', answer.text)
    assert [set(api.get(url).json()["paths"]) for url in shown] == [set(ROUTES)]
    parser = _Loads()
    parser.feed(answer.text)
    hashes = dict(re.findall(r"([0-9a-f]{64})  (\S+)", NOTICE.read_text()))
    loaded = [url for url in parser.loads if not url.startswith("data:")]
    assert sorted(loaded) == sorted(f"/docs/{name}" for name in hashes.values())
    for url, encoding in itertools.product(loaded, ("gzip", "identity")):
        asset = api.get(url, headers={"Accept-Encoding": encoding})
        assert asset.headers.get("content-encoding", "identity") == encoding
        assert hashes[hashlib.sha256(asset.content).hexdigest()] == url.removeprefix("/docs/")
        assert asset.headers["content-type"].startswith("text/css" if "css" in url else "text/javascript")


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
        'bdlab_credential_expiry_timestamp_seconds{credential="vault_token"} 2e+09',
        "bdlab_acknowledgement_seconds_count 3.0",
    ):
        assert line in text.splitlines()


def test_pages_of_other_origins_may_ask_only_if_they_are_named(api: httpx.Client) -> None:
    """Neither a plain request nor one with a preflight is open to a browser's page unless it is set."""
    shop = {"Origin": "https://shop.example"}
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    for answer in (api.get("/health/live", headers=shop), api.options("/predict", headers=shop | preflight)):
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    own = MemoryApi(Settings(http=HttpSettings(cors_origins="https://shop.example,http://localhost:3000")))
    with own.producer, serving(own.parts) as client:
        allowed = client.options("/predict", headers=shop | preflight)
        assert allowed.is_success
        assert allowed.headers["access-control-allow-origin"] == "https://shop.example"
        assert "POST" in allowed.headers["access-control-allow-methods"]
        for status, body in ((200, {"text": "good"}), (422, {})):
            answer = client.post("/predict", json=body, headers=shop)
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == "https://shop.example"
        other = {"Origin": "https://shop.example.evil.example"}
        assert client.options("/predict", headers=other | preflight).status_code == 400
        assert "access-control-allow-origin" not in client.get("/health/live", headers=other).headers
