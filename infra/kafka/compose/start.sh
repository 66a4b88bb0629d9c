#!/bin/bash
# Starts the broker of the official image with the cluster id of its log, or a new one where there is no log yet.
# The image's own default is one and the same id for every log in the world.
set -euo pipefail
meta=/var/lib/kafka/data/log/meta.properties
id=
if [[ -f $meta ]]; then
  id=$(sed -n 's/^cluster\.id=//p' "$meta")
fi
export CLUSTER_ID=${id:-$(/opt/kafka/bin/kafka-storage.sh random-uuid)}
exec /etc/kafka/docker/run
