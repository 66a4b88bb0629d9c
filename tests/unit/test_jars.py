"""Apache Kafka's jars: what is pinned, and fetching it from a Maven repository that misbehaves."""

from __future__ import annotations

import re

from bdlab.stack import jars


def test_the_lock_pins_each_jar_once() -> None:
    for assembly in (jars.kafka(), jars.kafka_with_zookeeper()):
        names = [jar.name for jar in assembly.jars]
        assert len(set(names)) == len(names)
        assert f"kafka_2.13-{assembly.version}.jar" in names
        assert all(re.fullmatch("[0-9a-f]{64}", jar.sha256) and jar.size > 0 for jar in assembly.jars)
