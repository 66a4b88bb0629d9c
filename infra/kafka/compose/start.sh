#!/bin/bash
# Starts the broker of the official image with the cluster id of its log, or with a new one if there is no log yet.
# The image's own default is the same id for every log everywhere.
set -euo pipefail
meta=/var/lib/kafka/data/log/meta.properties
id=
if [[ -f $meta ]]; then
  id=$(sed -n 's/^cluster\.id=//p' "$meta")
fi
# In Kafka's form: a UUID in URL-safe base 64, which no program takes for an option.
while [[ -z $id || $id == -* ]]; do
  id=$(head -c 16 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n')
done
export CLUSTER_ID=$id
exec /etc/kafka/docker/run
