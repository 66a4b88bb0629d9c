"""The compose file for real: up from a fresh clone, then everything that may happen to it afterwards.

The tests of this file follow one another on one stack; each can be run by itself too.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests import runbook
from tests.compose import images
from tests.compose.engine import NoEngine, compose_command, private_engine
from tests.compose.stack import LASTING, PASSWORD, ROOT, Stack, fresh_clone
from tests.leaks import Secrets

pytestmark = pytest.mark.compose

ZOOKEEPER = ("docker-compose.yml", "docker-compose.zookeeper.yml")


@pytest.fixture(scope="module")
def engine() -> Iterator[dict[str, str]]:
    try:
        with private_engine() as environment:
            compose_command()
            print(f"images: {images.provide(environment)}")  # noqa: T201 - the reader has to know which they were
            yield environment
    except NoEngine as error:
        images.skip_or_fail(error, in_ci=bool(os.environ.get("CI")))


@pytest.fixture(scope="module")
def stack(engine: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Up from a fresh clone and an `.env` that only its owner may read."""
    made = Stack(fresh_clone(tmp_path_factory.mktemp("clone")), engine, project="bdlabtest")
    made.write_env()
    try:
        made.up("--build")
        yield made
    finally:
        made.down("--volumes")


def test_a_fresh_clone_passes_the_integration_test(stack: Stack) -> None:
    said = stack.integration_test()
    assert "not ok" not in said
    assert "# 8 of 8 ok" in said


def test_the_image_runs_as_a_user_without_rights(stack: Stack) -> None:
    for container in stack.containers("app", "db-consumer"):
        found = stack.inspect(container)
        assert found["Config"]["User"] == "10001:10001"
        assert found["HostConfig"]["ReadonlyRootfs"]
        assert found["HostConfig"]["CapDrop"] == ["ALL"]
        assert stack.docker("exec", container, "id", "-u").strip() == "10001"
        for place in ("/opt/bdlab/probe", "/var/lib/bdlab/probe", "/etc/probe"):
            tried = stack.docker("exec", container, "sh", "-c", f"touch {place} 2>&1 || true")
            assert "Read-only" in tried, place


def test_no_secret_is_in_a_layer_a_log_or_an_environment(stack: Stack, tmp_path: Path) -> None:
    secrets = secrets_of(stack)
    for kind in ("seal key", "recovery key", "secret_id of serve", "private key of postgres-tls"):
        assert secrets.named(kind), f"no {kind} was seen, and so none looked for"
    config = json.loads(stack.docker("inspect", "bdlab:latest"))[0]["Config"]
    shown = {
        "history of the image": stack.docker("history", "--no-trunc", "bdlab:latest"),
        "configuration of the image": json.dumps(config),
    }
    for container in stack.docker("ps", "--all", "--quiet").split():
        found = stack.inspect(container)
        shown[f"description of {found['Name']}"] = json.dumps(found)
        shown[f"log of {found['Name']}"] = stack.log_of(container)
        for pid in processes_of(stack, container):
            for what in ("cmdline", "environ"):
                with contextlib.suppress(OSError):
                    text = Path(f"/proc/{pid}/{what}").read_text("utf-8", "replace")
                    shown[f"{what} of process {pid} in {found['Name']}"] = text
    for what, word in (("cmdline", "bdlab"), ("environ", "BDLAB_VAULT_IDENTITY_DIR=")):
        assert sum(word in text for name, text in shown.items() if name.startswith(what)) >= 2
    assert "batch stored" in "".join(text for name, text in shown.items() if name.startswith("log"))
    leaks = [leak for name, text in shown.items() for leak in secrets.leaks(name, text.encode())]
    assert not leaks

    assert in_layers(stack, [b"10001:10001"], tmp_path), "the search finds nothing at all"
    assert not in_layers(stack, [value for value in secrets.values() if b"\n" not in value], tmp_path)


def volumes_of(stack: Stack) -> dict[str, Path]:
    """Where each volume is, by its name in the compose file."""
    names = stack.docker("volume", "ls", "--quiet", "--filter", "name=bdlabtest_").split()
    found = {name: json.loads(stack.docker("volume", "inspect", name))[0]["Mountpoint"] for name in names}
    return {name.removeprefix("bdlabtest_"): Path(place) for name, place in found.items()}


def secrets_of(stack: Stack) -> Secrets:
    """All that the set-up has made and keeps in a volume, and the password that it was given."""
    secrets = Secrets()
    secrets.add("password of the set-up", PASSWORD)
    for volume, place in volumes_of(stack).items():
        for file in (found for found in place.rglob("*") if found.is_file()):
            match file.name:
                case "static.key":
                    secrets.add_binary("seal key", file.read_bytes())
                case "vault-keys.json":
                    for key in json.loads(file.read_bytes())["recovery_keys"]:
                        secrets.add_binary("recovery key", base64.b64decode(key))
                case "secret_id" | "wrapped_secret_id":
                    whose = volume.removeprefix("identity-") if "-" in volume else file.parent.name
                    secrets.add(f"{file.name} of {whose}", file.read_bytes().strip())
                case "server.key" | "server.pem":
                    lines = file.read_bytes().splitlines()
                    for number, line in enumerate(lines):
                        if line.startswith(b"-----BEGIN") and b"PRIVATE KEY" in line:
                            secrets.add(f"private key of {volume}", lines[number + 1])
    return secrets


def processes_of(stack: Stack, container: str) -> list[str]:
    """As the host numbers them; none of a container that has ended."""
    if not stack.inspect(container)["State"]["Running"]:
        return []
    return [line.split()[1] for line in stack.docker("top", container).splitlines()[1:]]


def in_layers(stack: Stack, values: Sequence[bytes], folder: Path) -> bool:
    """Whether the image, every file of every layer as one stream of bytes, has one of these somewhere."""
    patterns = folder / "patterns"
    patterns.touch(0o600)
    patterns.write_bytes(b"\n".join(values))
    environment = os.environ | stack.environment
    command = ["docker", "save", "bdlab:latest"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as saved:
        search = ["grep", "--count", "--text", "--fixed-strings", "--file", str(patterns)]
        outcome = subprocess.run(search, stdin=saved.stdout, stdout=subprocess.DEVNULL, check=False)
    return outcome.returncode == 0


def test_the_set_up_keeps_no_copy_of_env(stack: Stack) -> None:
    for place in volumes_of(stack).values():
        assert subprocess.run(["grep", "-rqs", PASSWORD, place], check=False).returncode != 0, place


def test_each_service_has_its_own_identity_only(stack: Stack) -> None:
    for service, identity in (("app", "serve"), ("db-consumer", "consume"), ("console", "console")):
        (container,) = stack.containers(service)
        folder = Path("/var/lib/bdlab/identity")
        listed = stack.docker("exec", container, "find", str(folder), "-type", "f").split()
        assert listed
        assert {Path(name).relative_to(folder).parts[0] for name in listed} == {identity}


def test_only_the_api_and_the_console_are_published(stack: Stack) -> None:
    published = {}
    for container in stack.containers():
        found = stack.inspect(container)
        bindings = (found["NetworkSettings"]["Ports"] or {}).items()
        open_ports = {(port, each["HostIp"]) for port, bound in bindings for each in bound or ()}
        if open_ports:
            published[found["Config"]["Labels"]["com.docker.compose.service"]] = open_ports
    assert published == {"app": {("8000/tcp", "127.0.0.1")}, "console": {("8001/tcp", "127.0.0.1")}}
    (port,) = stack.inspect(*stack.containers("console"))["NetworkSettings"]["Ports"]["8001/tcp"]
    shown = httpx.get(f"http://127.0.0.1:{port['HostPort']}/live", timeout=30)
    assert (shown.status_code, "<h1" in shown.text) == (200, True)


def test_it_restarts_without_env(stack: Stack) -> None:
    stack.env_file.unlink(missing_ok=True)
    before = stack.predict(stack.api_ports()[0])
    stack.compose("restart", "--timeout", "30")
    stack.integration_test()
    stack.down()
    stack.up()
    stack.integration_test()
    (port,) = stack.api_ports()
    assert httpx.get(f"http://127.0.0.1:{port}/predictions/{before}", timeout=30).status_code == 200


@pytest.mark.parametrize("service", LASTING)
def test_a_killed_container_recovers_by_itself(stack: Stack, service: str) -> None:
    stack.kill(stack.containers(service))
    stack.integration_test()


def test_all_killed_at_once_recover_by_themselves(stack: Stack) -> None:
    stack.kill(stack.containers(*LASTING))
    stack.integration_test()


def test_all_credentials_are_rotated_without_a_restart(stack: Stack) -> None:
    before = starts(stack)
    (port,) = stack.api_ports()
    with ThreadPoolExecutor(1) as pool:
        rotating = pool.submit(stack.tool, "rotate", "all", "--json")
        sent = [stack.predict(port)]
        while not rotating.done():
            sent.append(stack.predict(port))
    outcomes = {(one["what"], one["service"]): one["outcome"] for one in json.loads(rotating.result())}
    others = {credential for credential, outcome in outcomes.items() if outcome != "rotated"}
    assert others == {("approle", name) for name in ("migrate", "backup", "api-key", "model")}
    assert {("database", "manager"), ("kafka", "serve"), ("kafka", "consume"), ("approle", "serve")} <= set(outcomes)
    assert starts(stack) == before
    report = stack.verify()
    assert report["verified"]
    assert sum(one["stored"] for one in report["partitions"]) >= len(sent)
    stack.integration_test()


def starts(stack: Stack) -> dict[str, str]:
    """When each container that lasts was started."""
    return {name: str(stack.inspect(name)["State"]["StartedAt"]) for name in stack.containers(*LASTING)}


def test_replicas_share_the_work(stack: Stack) -> None:
    stack.up("--scale", "app=2", "--scale", "db-consumer=3")
    stack.integration_test()
    ports = stack.api_ports()
    assert len(ports) == 2
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(stack.predict, ports * 100))
    assert len(ids) == 200
    report = stack.verify()
    assert report["verified"]
    consumers = stack.containers("db-consumer")
    assert len(consumers) == 3
    for container in consumers:
        assert '"batch stored"' in stack.log_of(container), "a consumer stored nothing: no partitions are its own"
    stack.up("--scale", "app=1", "--scale", "db-consumer=1")


def test_the_zookeeper_variant(engine: dict[str, str], tmp_path: Path) -> None:
    """Without an `.env` at all: the password of the first set-up is invented."""
    stack = Stack(fresh_clone(tmp_path), engine, project="bdlabzookeeper", files=ZOOKEEPER)
    try:
        stack.up("--build")
        stack.integration_test()
        stack.kill(stack.containers("zookeeper"))
        stack.kill(stack.containers("kafka"))
        stack.integration_test()
    finally:
        stack.down("--volumes")


def test_the_runbook_for_containers(stack: Stack, tmp_path: Path) -> None:
    """Everything in it, up to volumes that were deleted and come back from their copies."""
    port = stack.api_ports()[0]
    before = stack.predict(port)
    stored = sum(one["stored"] for one in stack.verify()["partitions"])
    # The book says `docker compose`; Debian's package is called by another name.
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    engine, compose = shutil.which("docker"), " ".join(compose_command())
    docker.write_text(f'#!/bin/sh\ncase "$1" in compose) shift; exec {compose} "$@";; *) exec {engine} "$@";; esac\n')
    docker.chmod(0o755)
    environment = os.environ | stack.environment
    environment["PATH"] = f"{docker.parent}:{environment['PATH']}"
    for block in runbook.read(ROOT / "docs" / "operations.md"):
        if (block.how, block.where) != ("run", "compose"):
            continue
        script = block.script.replace("project=infra", f"project={stack.environment['COMPOSE_PROJECT_NAME']}")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=stack.clone / "infra",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{block}:\n{done.stdout[-4000:]}\n{stack.logs()}"
        missing = runbook.not_shown(done.stdout, block.shown)
        assert not missing, f"{block}: no {missing!r} in:\n{done.stdout}"
    port = stack.api_ports()[0]
    rows = httpx.get(f"http://127.0.0.1:{port}/predictions?limit=100", timeout=30).json()
    assert before in {row["id"] for row in rows}
    report = stack.verify()
    assert report["verified"]
    assert sum(one["stored"] for one in report["partitions"]) >= stored
    stack.integration_test()
