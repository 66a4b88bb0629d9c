"""What the compose files promise, as the compose program itself reads them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.compose import images
from tests.compose.engine import NoEngine, compose_command, run
from tests.compose.stack import LASTING, ROOT

pytestmark = pytest.mark.compose

FILES = (("docker-compose.yml",), ("docker-compose.yml", "docker-compose.zookeeper.yml"))
SETUP = ("first-setup", "vault-init", "first-setup-end", "kafka-certificates", "migrate")
IDENTITY_OF = {
    "app": {"serve"},
    "db-consumer": {"consume"},
    "console": {"console"},
    "migrate": {"migrate"},
    "kafka-certificates": {"migrate"},
    "predict": {"predict"},
    "feedback": {"feedback"},
    "status": {"status"},
    "verify": {"verify"},
    "dlq": {"dlq"},
    "model": {"model"},
    "rescore": {"rescore"},
    "api-key": {"api-key"},
}


@pytest.fixture(scope="module", params=FILES, ids=["kraft", "zookeeper"])
def services(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The services as `config` shows them, which fails for a file that is not valid."""
    names = [f"--file={ROOT / 'infra' / name}" for name in request.param]
    try:
        command = compose_command()
    except NoEngine as error:
        images.skip_or_fail(error, in_ci=bool(os.environ.get("CI")))
    shown: dict[str, Any] = yaml.safe_load(run(*command, *names, "--profile", "tools", "config"))
    found: dict[str, Any] = shown["services"]
    return found


def monitoring(service: dict[str, Any]) -> bool:
    """Whether it is started only if somebody asks for dashboards; an older compose shows it all the same."""
    return service.get("profiles") == ["monitoring"]


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Volume or folder -> where it is mounted."""
    found = {}
    for volume in service.get("volumes", ()):
        if isinstance(volume, str):
            source, target = volume.split(":")[:2]
        else:
            source, target = volume["source"], volume["target"]
        found[source] = target
    return found


def test_the_services_of_the_pipeline_are_there(services: dict[str, Any]) -> None:
    assert {*LASTING, *SETUP} <= set(services)


def test_only_the_api_and_the_console_are_published(services: dict[str, Any]) -> None:
    published = {name: str(service["ports"]) for name, service in services.items() if service.get("ports")}
    assert {name for name in published if not monitoring(services[name])} == {"app", "console"}
    assert "8000" in published["app"]
    assert "8001" in published["console"]
    assert all("127.0.0.1" in ports for ports in published.values())
    assert services["app"]["environment"]["BDLAB_HTTP_ALLOWED_HOSTS"] == "localhost,127.0.0.1,app"


def test_every_bdlab_service_is_locked_in(services: dict[str, Any]) -> None:
    for name, service in services.items():
        if not service.get("image", "").startswith("bdlab"):
            continue
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        if service.get("user") == "0:0":
            assert service["network_mode"] == "none", name


def test_each_service_mounts_its_own_identity_only(services: dict[str, Any]) -> None:
    for name, service in services.items():
        held = {source.partition("identity-")[2] for source in mounts(service) if "identity-" in source}
        if name == "vault-init":
            assert {*IDENTITY_OF["app"], "consume", "console", "inspect", "recovery"} <= held
        elif name == "rotate":
            # It could become each of them: none that reads all of Vault, owns tables or makes a root token.
            assert {*IDENTITY_OF["app"], "consume", "console", "rotate"} <= held
            assert not {"inspect", "recovery", "migrate", "backup", "api-key", "model"} & held
        else:
            assert held == IDENTITY_OF.get(name, set()), name


def test_no_service_needs_env_or_carries_a_secret(services: dict[str, Any]) -> None:
    for file in (ROOT / "infra").glob("docker-compose*.yml"):
        text = file.read_text("utf-8")
        assert "env_file" not in text
        assert not re.search(r"\$\{[A-Z_]+:?\?", text)
    for name, service in services.items():
        for variable in service.get("environment") or {}:
            assert not re.search(r"(PASSWORD|SECRET|TOKEN|(?<!REQUIRE_)KEY)$", variable), f"{name}: {variable}"


def test_what_lasts_restarts_by_itself_and_tells_its_health(services: dict[str, Any]) -> None:
    for name in LASTING:
        assert services[name]["restart"] == "unless-stopped", name
        assert services[name]["healthcheck"]["test"], name
    for name in ("app", "db-consumer"):
        assert services[name]["healthcheck"]["test"][:3] == ["CMD", "bdlab", "status"]
    for name in SETUP:
        assert services[name].get("restart") in (None, "no"), name


def test_what_the_image_is_made_of_reaches_the_engine() -> None:
    admitted = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line[:1] == "!"}
    dockerfile = (ROOT / "infra" / "Dockerfile").read_text("utf-8")
    copied = {name for line in re.findall(r"^COPY (?!--)(.+) \S+$", dockerfile, re.MULTILINE) for name in line.split()}
    assert copied == admitted


def test_every_image_that_is_named_has_a_stand_in(services: dict[str, Any]) -> None:
    named = {service["image"] for service in services.values() if not monitoring(service)} - {"bdlab:latest"}
    dockerfile = Path(ROOT / "infra" / "Dockerfile").read_text("utf-8")
    base = re.search(r"^ARG PYTHON_IMAGE=(\S+)", dockerfile, re.MULTILINE)
    assert base
    assert {*named, base[1]} <= set(images.OFFICIAL)
