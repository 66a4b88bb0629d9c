#!/bin/bash
# The Java class $1 of the distribution, with KAFKA_HEAP_OPTS and KAFKA_OPTS.
set -euo pipefail
logging=/etc/kafka/docker/logging
# shellcheck disable=SC2086 # several options
exec java ${KAFKA_HEAP_OPTS:--Xmx512m} ${KAFKA_OPTS:-} -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Djava.awt.headless=true \
  "-Dlog4j2.configurationFile=$logging/log4j2.yaml" "-Dlog4j.configuration=file:$logging/log4j.properties" \
  -Dkafka.logs.dir=/opt/kafka/logs -cp '/opt/kafka/libs/*' "$@"
