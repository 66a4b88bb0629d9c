#!/bin/bash
# `server` reads /openbao/config; root gives its folders to openbao (not with SKIP_CHOWN) and goes on as that.
set -euo pipefail
if [[ ${1:-} == server ]]; then
  shift
  set -- bao server -config=/openbao/config "$@"
fi
if [[ ${1:-} == bao && $(id -u) == 0 ]]; then
  [[ -n ${SKIP_CHOWN:-} ]] || chown -R openbao:openbao /openbao
  set -- gosu openbao "$@"
fi
exec "$@"
