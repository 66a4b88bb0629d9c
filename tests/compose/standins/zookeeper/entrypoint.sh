#!/bin/bash
# Root gives the data folders to zookeeper and goes on as that; the configuration is the mounted /conf/zoo.cfg.
set -euo pipefail
if [[ ${1:-} == zkServer.sh && $(id -u) == 0 ]]; then
  chown -R zookeeper /data /datalog /logs
  exec gosu zookeeper /bin/bash "$0" "$@"
fi
exec "$@"
