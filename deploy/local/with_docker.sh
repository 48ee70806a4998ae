#!/usr/bin/env bash
# Run a command with a Docker engine: the one that answers, or one of our own where there is none and
# this is root's Debian (docker_engine.sh).
set -euo pipefail
if ! docker info >/dev/null 2>&1; then
  if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
    echo "No Docker engine answers. Start one (https://docs.docker.com/engine/install), or run this" \
      "as root on Debian 12, where deploy/local/docker_engine.sh makes one." >&2
    exit 1
  fi
  "$(dirname "$0")/docker_engine.sh" up
  eval "$("$(dirname "$0")/docker_engine.sh" env)"
fi
exec "$@"
