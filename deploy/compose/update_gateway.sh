#!/usr/bin/env bash
# Replace the gateway while requests run: a second one starts from the newest image and settings, the
# proxy finds it, the first one ends what it has and goes. For the profile `tls`; without the proxy
# one port can have one gateway only, and `docker compose up -d gateway` makes clients wait.
#
#   COMPOSE_PROFILES=tls GALEN_GATEWAY_PUBLISH=127.0.0.1: deploy/compose/update_gateway.sh
#
# COMPOSE says how compose is called (default: docker compose); more words are passed to it before
# its command, such as --project-name.
set -euo pipefail

read -ra compose <<<"${COMPOSE:-docker compose}"
compose+=("$@")

old=$("${compose[@]}" ps --quiet gateway)
[[ $(wc -w <<<"$old") == 1 ]] || {
  echo "update_gateway.sh: there must be one gateway, and there are: ${old:-none}" >&2
  exit 1
}
"${compose[@]}" up --detach --no-build --no-deps --no-recreate --scale gateway=2 gateway

for _ in {1..240}; do
  new=$("${compose[@]}" ps --quiet gateway | grep -v "$old" || true)
  state=$(docker inspect --format '{{.State.Health.Status}}' "$new" 2>/dev/null || true)
  [[ $state != healthy ]] || break
  sleep 0.5
done
if [[ ${state:-} != healthy ]]; then
  echo "update_gateway.sh: the new gateway is not healthy; the old one goes on" >&2
  docker logs --tail 20 "$new" >&2 || true
  docker rm --force "$new" >/dev/null || true
  exit 1
fi
# It drains: what it has taken, it ends (GALEN_DRAIN_S, within GALEN_DRAIN_GRACE).
docker stop "$old" >/dev/null
docker rm "$old" >/dev/null
echo "the gateway is $new"
