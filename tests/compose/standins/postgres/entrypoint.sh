#!/bin/bash
# Makes the database at the first start, as POSTGRES_USER and POSTGRES_PASSWORD (or their ..._FILE), POSTGRES_DB and
# POSTGRES_INITDB_ARGS say. The files have to exist at every start; what is in them counts at the first.
set -euo pipefail

value_of() {
  local file=${1}_FILE
  if [[ -n ${!1:-} ]]; then
    echo "${!1}"
  elif [[ -n ${!file:-} ]]; then
    cat "${!file}"
  fi
}

if [[ ${1:-} != postgres ]]; then
  exec "$@"
fi
POSTGRES_USER=$(value_of POSTGRES_USER)
POSTGRES_PASSWORD=$(value_of POSTGRES_PASSWORD)
unset POSTGRES_USER_FILE POSTGRES_PASSWORD_FILE
export POSTGRES_USER=${POSTGRES_USER:-postgres} POSTGRES_PASSWORD
if [[ $(id -u) == 0 ]]; then
  mkdir -p "$PGDATA" /var/run/postgresql
  chmod 0700 "$PGDATA"
  chmod 03775 /var/run/postgresql
  chown -R postgres "$PGDATA" /var/run/postgresql
  exec gosu postgres /bin/bash "$0" "$@"
fi
if [[ ! -s $PGDATA/PG_VERSION ]]; then
  if [[ -z $POSTGRES_PASSWORD ]]; then
    echo "error: the database is new, and POSTGRES_PASSWORD is empty" >&2
    exit 1
  fi
  # shellcheck disable=SC2086 # several arguments
  initdb --username="$POSTGRES_USER" --pwfile=<(echo "$POSTGRES_PASSWORD") ${POSTGRES_INITDB_ARGS:-}
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  arguments=("${@:2}" -c listen_addresses= -c unix_socket_directories=/var/run/postgresql)
  pg_ctl -D "$PGDATA" -o "${arguments[*]@Q}" -w start
  if [[ -n ${POSTGRES_DB:-} && $POSTGRES_DB != postgres ]]; then
    PGPASSWORD=$POSTGRES_PASSWORD createdb -h /var/run/postgresql -U "$POSTGRES_USER" "$POSTGRES_DB"
  fi
  pg_ctl -D "$PGDATA" -m fast -w stop
fi
unset POSTGRES_PASSWORD
exec "$@" -c listen_addresses='*' -c unix_socket_directories=/var/run/postgresql
