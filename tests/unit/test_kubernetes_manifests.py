"""The manifests of `infra/k8s` against Kubernetes' own schemas, which the validator brings along."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from bdlab.hosts import AllowedHosts, parse

FOLDER = Path(__file__).resolve().parents[2] / "infra" / "k8s"
OUTSIDE = FOLDER.with_name("k8s-outside")
#: The oldest and the newest of Kubernetes' versions that are supported today.
VERSIONS = ("1.31", "1.35")
CUSTOM = {"kustomize.config.k8s.io/v1beta1", "keda.sh/v1alpha1", "cert-manager.io/v1"}


def kustomization(folder: Path = FOLDER) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
    return found


def documents(folder: Path = FOLDER) -> Iterator[dict[str, Any]]:
    for name in kustomization(folder)["resources"]:
        if name.endswith(".yaml"):
            yield from filter(None, yaml.safe_load_all((folder / name).read_text("utf-8")))


def outside(kind: str, name: str = "") -> dict[str, Any]:
    (found,) = (one for one in documents(OUTSIDE) if one["kind"] == kind and name in {"", one["metadata"]["name"]})
    return found


def named(document: dict[str, Any]) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"


def workloads() -> Iterator[dict[str, Any]]:
    return (document for document in documents() if document["kind"] in {"Deployment", "Job"})


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "document", [one for one in (*documents(), *documents(OUTSIDE)) if one["apiVersion"] not in CUSTOM], ids=named
)
def test_a_manifest_is_valid(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


def test_the_validator_refuses_a_field_that_is_none() -> None:
    (app, *_) = workloads()
    app["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(app, VERSIONS[-1], strict=True)


def test_every_file_is_part_of_the_kustomization() -> None:
    files = {file.name for file in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization()["resources"]) == files
    names = [named(document) for document in documents()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("document", list(workloads()), ids=named)
def test_a_pod_is_locked_in_and_has_one_identity(document: dict[str, Any]) -> None:
    template = document["spec"]["template"]
    spec = template["spec"]
    service = spec["serviceAccountName"].removeprefix("bdlab-")
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert "replicas" not in document["spec"]  # an autoscaler's, which every `apply` would take back
    for container in spec["containers"]:
        security = container["securityContext"]
        if container is spec["containers"][0]:  # where the injector looks, for `agent-run-as-same-user`
            assert security["runAsUser"] == security["runAsGroup"] == spec["securityContext"]["fsGroup"]
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert container["envFrom"] == [{"configMapRef": {"name": "bdlab"}}]
    notes = template["metadata"]["annotations"]
    prefix = "vault.hashicorp.com/"
    assert notes[f"{prefix}secret-volume-path"] == f"/var/lib/bdlab/identity/{service}"
    assert notes[f"{prefix}role"] == f"bdlab-{service}"
    for file in ("role_id", "secret_id"):
        assert notes[f"{prefix}agent-inject-perms-{file}"] == "0600"
        assert f"auth/approle/role/{service}/" in notes[f"{prefix}agent-inject-template-{file}"]


def test_accounts_selectors_and_targets_are_there() -> None:
    names = {named(document) for document in documents()}
    pods = {one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"] for one in workloads()}
    for document in workloads():
        assert f"ServiceAccount/{document['spec']['template']['spec']['serviceAccountName']}" in names
    for document in documents():
        spec = document.get("spec", {})
        if document["kind"] in {"Service", "PodDisruptionBudget"}:
            selector = spec["selector"]
            selector = selector.get("matchLabels", selector)
            assert selector.items() <= pods[document["metadata"]["name"]].items()
        if "scaleTargetRef" in spec:
            assert f"Deployment/{spec['scaleTargetRef']['name']}" in names


def test_only_its_own_namespace_and_the_monitoring_reach_the_api_and_the_console() -> None:
    (policy,) = (document for document in documents() if document["kind"] == "NetworkPolicy")
    assert policy["spec"]["podSelector"] == {}
    own, monitoring = policy["spec"]["ingress"]
    assert own["from"] == [{"podSelector": {}}]
    assert own["ports"] == [{"protocol": "TCP", "port": port} for port in (8000, 8001)]
    assert {"protocol": "TCP", "port": 8001} not in monitoring["ports"]
    (who,) = monitoring["from"]
    assert who["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}


def test_the_api_may_be_called_by_the_names_of_its_service() -> None:
    (app,) = (document for document in workloads() if named(document) == "Deployment/app")
    (container,) = app["spec"]["template"]["spec"]["containers"]
    settings = {each["name"]: each["value"] for each in container["env"]}
    allowed = AllowedHosts(settings["BDLAB_HTTP_ALLOWED_HOSTS"], bound="0.0.0.0")  # noqa: S104 - the image's
    for name in ("app:8000", "app.bdlab.svc:8000", "app.bdlab.svc.cluster.local.", "localhost:8000"):
        assert parse(name) in allowed
    assert parse("app.other.svc") not in allowed


def test_vault_is_named_by_its_active_node() -> None:
    (made,) = kustomization()["configMapGenerator"]
    settings = dict(line.split("=", 1) for line in made["literals"])
    assert urlsplit(settings["VAULT_ADDR"]).hostname == "vault-active.vault.svc"


def test_there_are_never_more_consumers_than_partitions() -> None:
    (scaled,) = (document for document in documents() if document["kind"] == "ScaledObject")
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["type"] == "prometheus"
    assert "bdlab_sink_lag_events" in trigger["metadata"]["query"]
    assert {"serverAddress", "threshold"} <= set(trigger["metadata"])
    (made,) = kustomization()["configMapGenerator"]
    settings = dict(line.split("=", 1) for line in made["literals"])
    assert scaled["spec"]["maxReplicaCount"] == int(settings["BDLAB_KAFKA_PARTITIONS"])


@pytest.mark.parametrize(
    ("name", "section", "asked"), [("app", "HTTP", {"predict", "read"}), ("console", "CONSOLE", {"read", "replay"})]
)
def test_what_opens_a_service_asks_for_keys_and_names_one_host(name: str, section: str, asked: set[str]) -> None:
    ingress = outside("Ingress", name)["spec"]
    ((host,), rules) = ingress["tls"][0]["hosts"], ingress["rules"]
    patch = yaml.safe_load((OUTSIDE / f"{name}.yaml").read_text("utf-8"))
    (container,) = patch["spec"]["template"]["spec"]["containers"]
    settings = {each["name"]: each["value"] for each in container["env"]}
    assert asked <= set(settings[f"BDLAB_{section}_REQUIRE_KEY"].split(","))
    assert host in settings[f"BDLAB_{section}_ALLOWED_HOSTS"].split(",")
    assert [rule["host"] for rule in rules] == [host]
    backends = {path["path"]: path["backend"]["service"] for path in rules[0]["http"]["paths"]}
    assert all(service == {"name": name, "port": {"name": "http"}} for service in backends.values())
    assert not {"/metrics", "/vault-status", "/kafka-status", *(["/"] if name == "app" else [])} & set(backends)


@pytest.mark.parametrize("name", ["app", "console"])
def test_the_certificate_of_the_ingress_is_signed_by_vaults_role(name: str) -> None:
    certificate, ingress, issuer = outside("Certificate", name)["spec"], outside("Ingress", name), outside("Issuer")
    assert certificate["secretName"] == ingress["spec"]["tls"][0]["secretName"]
    assert certificate["dnsNames"] == [certificate["commonName"]] == ingress["spec"]["tls"][0]["hosts"]
    assert certificate["issuerRef"] == {"kind": "Issuer", "name": issuer["metadata"]["name"]}
    vault = issuer["spec"]["vault"]
    account = vault["auth"]["kubernetes"]["serviceAccountRef"]["name"]
    assert outside("ServiceAccount")["metadata"]["name"] == account
    assert outside("Role")["rules"][0]["resourceNames"] == [account]
    readme = (FOLDER / "README.md").read_text("utf-8")
    assert certificate["commonName"] in readme.partition("allowed_domains=")[2].split()[0].split(",")
    for said in (vault["path"], f"role/{vault['auth']['kubernetes']['role']} ", f"names={account} "):
        assert said in readme  # which makes the role
