#!/bin/bash
set -euo pipefail
[[ ${1:-} == start-foreground ]]
# shellcheck disable=SC2086 # several options
exec java -Xmx128m ${JVMFLAGS:-} ${SERVER_JVMFLAGS:-} -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.awt.headless=true \
  -Dlog4j.configuration=file:/opt/zookeeper/logging/log4j.properties -cp '/opt/zookeeper/libs/*' \
  org.apache.zookeeper.server.ZooKeeperServerMain /conf/zoo.cfg
