#!/usr/bin/env bash
# The integration test: sends one prediction through every part, and prints a line for each step.
#
#   infra/test_kafka_integration.sh                      the stack of infra/docker-compose.yml
#   infra/test_kafka_integration.sh --local [FOLDER]     the stack of `bdlab up` (its --data-dir)
#
# More compose files: COMPOSE_FILE=infra/docker-compose.yml:infra/docker-compose.zookeeper.yml
# Exit code: 0 every step is ok, 1 some are not, 2 wrong usage.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
wait_s=${BDLAB_TEST_WAIT_S:-120}
services=(vault postgres kafka app db-consumer)
mode=compose
data_dir=()
tls=()
case ${1:-} in
  "") ;;
  --local)
    mode=local
    [[ -z ${2:-} ]] || data_dir=(--data-dir "$2")
    ;;
  *)
    sed -n '2,8p' "${BASH_SOURCE[0]}" | cut -c 3- >&2
    exit 2
    ;;
esac

number=0
failed=0
why=

# check NAME COMMAND...: the command says in $why what is wrong.
check() {
  local name=$1
  shift
  number=$((number + 1))
  why=
  if "$@"; then
    echo "ok $number - $name"
  else
    failed=$((failed + 1))
    echo "not ok $number - $name${why:+: $why}"
  fi
}

# until_true COMMAND...: tries it again and again, for $wait_s in all.
until_true() {
  local deadline=$((SECONDS + wait_s))
  until "$@"; do
    [[ $SECONDS -lt $deadline ]] || return 1
    sleep 1
  done
}

# field JSON NAME: the value of a string or number, at any depth.
field() {
  grep -oE "\"$2\": *(\"[^\"]*\"|[^,}]+)" <<<"$1" | head -n 1 | sed -E 's/^"[^"]*": *"?//; s/"$//'
}

# get PATH: the answer's body in $body, its code in $code.
get() {
  local answer
  answer=$(curl --silent --max-time 15 ${tls[@]+"${tls[@]}"} --write-out '\n%{http_code}' "$url$1") || true
  code=${answer##*$'\n'}
  body=${answer%$'\n'*}
}

# --- what differs between the two stacks ------------------------------------------------------------------------------

if [[ $mode == compose ]]; then
  export COMPOSE_FILE=${COMPOSE_FILE:-$here/docker-compose.yml}
  if docker compose version >/dev/null 2>&1; then
    compose=(docker compose)
  elif command -v docker-compose >/dev/null; then
    compose=(docker-compose)
  else
    echo "error: neither \`docker compose\` nor docker-compose is there" >&2
    exit 2
  fi
  # Compose reads paths from the first file's folder; the project is named after that folder.
  run_compose() { "${compose[@]}" "$@" 2>/dev/null; }
  find_api() {
    local address
    address=$(run_compose port app 8000 | head -n 1)
    url=http://localhost:${address##*:}
  }
  log_of() { run_compose logs --no-color "$1"; }
  verify() { run_compose run --rm -T verify --wait 60; }
  service_is_up() {
    local ids id state
    ids=$(run_compose ps -q "$1")
    if [[ -z $ids ]]; then
      why="$1 has no container"
      return 1
    fi
    for id in $ids; do
      state=$(docker inspect --format '{{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{end}}' "$id")
      if [[ $state != "running healthy" ]]; then
        why="$1 is ${state:-gone}"
        return 1
      fi
    done
  }
else
  bdlab=bdlab
  command -v bdlab >/dev/null || bdlab=$here/../.venv/bin/bdlab
  exports=$("$bdlab" env ${data_dir[@]+"${data_dir[@]}"}) || exit 2
  eval "$exports"
  folder=$(dirname "$BDLAB_CONFIG")
  port=$(sed -n '/^\[http\]/,/^\[/s/^port *= *//p' "$BDLAB_CONFIG")
  scheme=http
  if [[ -n ${BDLAB_HTTP_CA_FILE:-} ]]; then
    scheme=https
    tls=(--cacert "$BDLAB_HTTP_CA_FILE")
  fi
  find_api() { url=$scheme://127.0.0.1:${port:-8000}; }
  services=(serve consume)
  log_of() {
    case $1 in
      app) cat "$folder"/logs/serve*.log ;;
      db-consumer) cat "$folder"/logs/consume*.log ;;
    esac
  }
  verify() { "$bdlab" verify --wait 60 2>/dev/null; }
  service_is_up() {
    if [[ $1 == serve ]]; then
      get /health/live
      [[ $code == 200 ]] || {
        why="$url does not answer"
        return 1
      }
    else
      "$bdlab" status --check consumer >/dev/null 2>&1 || {
        why="bdlab status --check consumer says that it is not well"
        return 1
      }
    fi
  }
fi

# --- the steps --------------------------------------------------------------------------------------------------------

all_are_up() {
  local service
  for service in "${services[@]}"; do
    until_true service_is_up "$service" || return 1
  done
  find_api # compose may have chosen the port just now
  why=
}

vault_is_open() {
  get /vault-status
  [[ $code == 200 && $(field "$body" authenticated) == true && $(field "$body" sealed) == false ]] || {
    why="HTTP $code $body"
    return 1
  }
}

kafka_is_connected() {
  get /kafka-status
  [[ $code == 200 && $(field "$body" connected) == true && $(field "$body" partitions) -gt 0 ]] || {
    why="HTTP $code $body"
    return 1
  }
}

id=
prediction=
predict() {
  local answer body code
  answer=$(curl --silent --max-time 30 ${tls[@]+"${tls[@]}"} --write-out '\n%{http_code}' -X POST "$url/predict" \
    -H "Content-Type: application/json" \
    -d '{"text": "This product is terrible!", "summary": "Product review"}') || true
  code=${answer##*$'\n'}
  body=${answer%$'\n'*}
  id=$(field "$body" id)
  prediction=$(field "$body" prediction)
  if [[ $code != 200 || -z $id ]]; then
    why="HTTP $code $body"
    id=
    return 1
  fi
}

has_id() { log_of "$1" | grep -- "$2" | grep -- "$id" >/dev/null; }

is_logged() {
  [[ -n $id ]] || {
    why="there is no prediction to look for"
    return 1
  }
  until_true has_id "$1" "$2" || {
    why="no line \"$2\" with $id within $wait_s s"
    return 1
  }
}

is_a_row() {
  get "/predictions/$id"
  [[ $code == 200 ]]
}

is_stored() {
  [[ -n $id ]] || {
    why="there is no prediction to look for"
    return 1
  }
  until_true is_a_row || {
    why="HTTP $code for $url/predictions/$id"
    return 1
  }
  [[ $(field "$body" id) == "$id" && $(field "$body" prediction) == "$prediction" ]] || {
    why="the row is another one than the answer: $body"
    return 1
  }
}

is_verified() {
  local report
  report=$(verify)
  [[ $? -eq 0 ]] || {
    why=$(tail -n 3 <<<"$report" | tr '\n' ' ')
    return 1
  }
}

find_api
echo "# $mode stack at $url"
if [[ $mode == compose ]]; then
  check "containers are up and healthy: ${services[*]}" all_are_up
else
  check "the services are up" all_are_up
fi
check "Vault is open, and the API logged in" until_true vault_is_open
check "the Kafka connection holds" until_true kafka_is_connected
check "a prediction request succeeds" predict
check "app says that it sent the message" is_logged app published
check "db-consumer says that it stored the message" is_logged db-consumer "batch stored"
check "the prediction is in the database" is_stored
check "every offset of the topic is accounted for once" is_verified
echo "# $((number - failed)) of $number ok${id:+, prediction $id}"
[[ $failed -eq 0 ]]
