"""Renew the `LOCKS`: each jar of the versions of Apache Kafka below, with its size in bytes and SHA-256.

`make lock` runs it. The resolver takes them from Maven Central, or from the mirror that its settings name.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

from jgo.config import GlobalSettings
from jgo.maven import Dependency, MavenContext

WANTED = {
    "kafka": [
        "org.apache.kafka:kafka_2.13:4.4.0",
        # Kafka logs through slf4j, and brings log4j 2 without the bridge between the two.
        "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5",
    ],
    "kafka-with-zookeeper": [
        "org.apache.kafka:kafka_2.13:3.9.2",
        # 3.8.7 was published without its parent, so that it cannot be resolved.
        "org.apache.zookeeper:zookeeper:3.8.6",
        # Kafka and ZooKeeper log through slf4j, and bring no bridge to log4j.
        "org.slf4j:slf4j-reload4j:1.7.36",
    ],
}
UNWANTED = ("ch.qos.logback", "*")
_ROOT = Path(__file__).parents[2]
LOCKS = {
    "kafka": _ROOT / "src" / "bdlab" / "stack" / "servers" / "kafka.lock",
    "kafka-with-zookeeper": _ROOT / "tests" / "servers" / "kafka-with-zookeeper.lock",
}


def resolve(context: MavenContext, wanted: list[str]) -> list[Dependency]:
    """Return the jars of `wanted` and of what they need at run time, as Maven would choose them."""
    # Raw (`!`): the versions that one of them manages are not imposed on the others.
    roots = [context.create_dependency(f"{name}!", [context.project(*UNWANTED)]) for name in wanted]
    inputs, needed = context.resolver.resolve(roots)
    return sorted({*inputs, *(each for each in needed if each.scope in {"compile", "runtime"})}, key=str)


def section(context: MavenContext, name: str, wanted: list[str]) -> str:
    lines = [f"[{name}]", f'version = "{wanted[0].rpartition(":")[2]}"', f"wanted = {json.dumps(wanted)}", "jars = ["]
    for dependency in resolve(context, wanted):
        artifact = dependency.artifact
        parts = (artifact.groupId, artifact.artifactId, artifact.version, artifact.classifier)
        coordinate = ":".join(part for part in parts if part)
        content = artifact.resolve().read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        lines.append(f'  {{coordinate = "{coordinate}", size = {len(content)}, sha256 = "{digest}"}},')
    return "\n".join([*lines, "]", ""])


def main() -> None:
    named = GlobalSettings.load().repositories
    with tempfile.TemporaryDirectory(prefix="bdlab-lock-") as folder:
        context = MavenContext(repo_cache=Path(folder), remote_repos=named or None)
        for name, wanted in WANTED.items():
            head = "# Made by `make lock` from infra/kafka/lock.py.\n\n"
            LOCKS[name].write_text(head + section(context, name, wanted), "utf-8")


if __name__ == "__main__":
    main()
