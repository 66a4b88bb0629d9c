"""Kafka Connect with Debezium's JDBC sink connector, from Maven, as a peer of `bdlab consume`."""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.common import CannotRun, Daemon
from jgo.config import GlobalSettings
from jgo.constants import MAVEN_CENTRAL_URL
from jgo.maven import MavenContext

from bdlab.stack.servers import binaries, java

KAFKA = "4.4.0"
DEBEZIUM = "3.6.0.Final"
_PLUGIN = "io/debezium/debezium-connector-jdbc/{0}/debezium-connector-jdbc-{0}-plugin.tar.gz"

#: What Debezium needs to know of an event: the converter reads this instead of a schema in each message.
_FIELDS = {
    "id": "string",
    "summary": "string",
    "text": "string",
    "helpfulness_numerator": "int32",
    "helpfulness_denominator": "int32",
    "prediction": "double",
    "sentiment": "string",
    "confidence": "double",
    "model": "string",
    "timestamp": "string",
}


def fetch() -> tuple[Path, Path]:
    """Return the folders of Kafka Connect's jars and of its plugins, fetched once.

    Raises CannotRun if they cannot be had.
    """
    runtime, plugins = common.CACHE / f"connect-{KAFKA}", common.CACHE / f"debezium-{DEBEZIUM}"
    try:
        if not runtime.is_dir():
            common.say(f"fetching Kafka Connect {KAFKA} into {runtime}, once")
            with common.filling(runtime) as folder:
                for jar in _resolve():
                    shutil.copy(jar, folder)
        if not plugins.is_dir():
            common.say(f"fetching Debezium's JDBC sink {DEBEZIUM} into {plugins}, once")
            url = GlobalSettings.load().repositories.get("central", MAVEN_CENTRAL_URL).rstrip("/")
            with common.filling(plugins) as folder, tempfile.NamedTemporaryFile() as archive:
                with urllib.request.urlopen(f"{url}/{_PLUGIN.format(DEBEZIUM)}", timeout=60) as answer:
                    shutil.copyfileobj(answer, archive)
                archive.flush()
                with tarfile.open(archive.name) as opened:
                    opened.extractall(folder, filter="data")
    except Exception as error:
        raise CannotRun(f"Debezium's JDBC sink cannot be fetched: {error}") from error
    return runtime, plugins


def _resolve() -> list[Path]:
    settings = GlobalSettings.load()
    context = MavenContext(
        repo_cache=settings.repo_cache, remote_repos={"central": MAVEN_CENTRAL_URL} | settings.repositories
    )
    root = context.create_dependency(f"org.apache.kafka:connect-runtime:{KAFKA}!")
    json_root = context.create_dependency(f"org.apache.kafka:connect-json:{KAFKA}!")
    inputs, needed = context.resolver.resolve([root, json_root])
    wanted = {*inputs, *(each for each in needed if each.scope in {"compile", "runtime"})}
    return [Path(each.artifact.resolve()) for each in wanted]


class Connect(Daemon):
    """A standalone worker without connectors; `add` and `remove` change that."""

    def __init__(self, folder: Path, bootstrap_servers: str) -> None:
        runtime, plugins = fetch()
        self.port = common.free_port()
        settings = {
            "bootstrap.servers": bootstrap_servers,
            "listeners": f"http://127.0.0.1:{self.port}",
            "plugin.path": str(plugins),
            "plugin.discovery": "hybrid_warn",
            "key.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
            "value.converter": "org.apache.kafka.connect.json.JsonConverter",
            "offset.storage.file.filename": str(folder / "connect.offsets"),
            "offset.flush.interval.ms": "5000",
        }
        file = folder / "connect.properties"
        file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        jars = [*sorted(runtime.glob("*.jar")), *java.kafka().home.glob("libs/log4j*.jar")]
        command = [
            str(binaries.java()),
            "-Xmx512m",
            f"-Dlog4j2.configurationFile={java.LOGGING}",
            "-cp",
            ":".join(map(str, jars)),
            "org.apache.kafka.connect.cli.ConnectStandalone",
            str(file),
        ]
        super().__init__("connect", command, folder / "connect.log")

    def wait(self) -> None:
        self.wait_until(lambda: common.answers(f"http://127.0.0.1:{self.port}/connectors"))

    def add(self, name: str, topic: str, table: str, jdbc_url: str) -> None:
        """Start a connector from the beginning of `topic`."""
        schema = {
            "type": "struct",
            "optional": False,
            "fields": [{"field": field, "type": kind, "optional": field != "id"} for field, kind in _FIELDS.items()],
        }
        config = {
            "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
            "tasks.max": "1",
            "topics": topic,
            "connection.url": jdbc_url,
            "connection.username": "postgres",
            "connection.password": "",
            "insert.mode": "upsert",
            "primary.key.mode": "record_value",
            "primary.key.fields": "id",
            "schema.evolution": "basic",
            "collection.name.format": table,
            "batch.size": "2000",
            "consumer.override.max.poll.records": "2000",
            "consumer.override.auto.offset.reset": "earliest",
            "value.converter": "org.apache.kafka.connect.json.JsonConverter",
            "value.converter.schemas.enable": "true",
            "value.converter.schema.content": json.dumps(schema),
        }
        self._ask("POST", "", {"name": name, "config": config})

    def remove(self, name: str) -> None:
        self._ask("DELETE", f"/{name}")

    def failure(self, name: str) -> str:
        """Return why a task has failed; empty if none has."""
        tasks = self._ask("GET", f"/{name}/status").get("tasks", [])
        return next((task.get("trace", "") for task in tasks if task["state"] == "FAILED"), "")

    def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/connectors{path}",
            json.dumps(body).encode() if body else None,
            {"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return dict(json.loads(answer.read() or b"{}"))
