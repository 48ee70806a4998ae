#!/usr/bin/env bash
# A Docker engine for a machine that has none and can pull no image (Debian, as root): it makes the
# base images that deploy/docker and docker-compose.yml name from Debian's own packages, under their
# public names, so that `make compose-test` really builds and runs. With a Docker engine and access
# to a registry of images nobody needs this.
#
#   deploy/local/docker_engine.sh up      install, start, make the base images; does nothing twice
#   deploy/local/docker_engine.sh down    stop the engine that `up` started
#   eval "$(deploy/local/docker_engine.sh env)"   point docker and docker-compose at it
#
# The images differ from the published ones where Debian's versions do; `base_images` says what is
# in them. Grafana is not in Debian and has none.
set -euo pipefail

FOLDER=${GALEN_DOCKER_FOLDER:-/var/tmp/galen-docker}
SOCKET=unix://$FOLDER/docker.sock
SUITE=bookworm

# NAME PACKAGES: beyond Debian's minimal base
base_images() {
  cat <<'LIST'
python:3.11-slim-bookworm python3,python3-venv,python3-pip,ca-certificates
redis:7.4-bookworm redis-server,ca-certificates
postgres:15-bookworm postgresql,ca-certificates
prom/prometheus:v2.53.5 prometheus,ca-certificates
nginx:1.28-bookworm nginx-light,openssl,ca-certificates
LIST
}

# finish NAME ROOT: make of Debian's files what the published image of that name offers to its users
finish() {
  local name=$1 root=$2
  case $name in
    python:*) # pip installs where it is told, and `python` is there
      rm -f "$root"/usr/lib/python3.*/EXTERNALLY-MANAGED
      ln -sf python3 "$root/usr/bin/python"
      printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' >"$root/etc/pip.conf"
      ;;
    redis:*) # uid 999, /data
      give_uid "$root" redis 999
      install -d -o 999 -g 999 "$root/data"
      ;;
    postgres:*) # uid 999, its programs in PATH, and an entry point that makes the database
      give_uid "$root" postgres 999
      install -d -o 999 -g 999 -m 700 "$root/var/lib/postgresql/data"
      install -d -o 999 -g 999 "$root/var/run/postgresql"
      install -m 755 "$(dirname "$0")/postgres_entrypoint.sh" "$root/usr/local/bin/docker-entrypoint.sh"
      ;;
    prom/*) # uid 65534, /prometheus, /bin/prometheus
      install -d -o 65534 -g 65534 "$root/prometheus"
      ;;
  esac
}

give_uid() { # ROOT USER UID: files of the user's follow
  local root=$1 user=$2 uid=$3 old
  old=$(chroot "$root" id -u "$user")
  local taken
  taken=$(chroot "$root" getent passwd "$uid" | cut -d: -f1 || true)
  if [[ -n $taken && $taken != "$user" ]]; then
    chroot "$root" usermod -u "$((uid + 700))" "$taken"
  fi
  chroot "$root" groupmod -o -g "$uid" "$(chroot "$root" id -gn "$user")"
  chroot "$root" usermod -u "$uid" -g "$uid" "$user"
  find "$root" -xdev -uid "$old" -exec chown -h "$uid:$uid" {} +
}

changes() { # NAME: what the image says of itself
  case $1 in
    python:*) echo 'CMD ["python3"]' ;;
    redis:*)
      echo 'WORKDIR /data'
      echo 'CMD ["redis-server"]'
      ;;
    postgres:*)
      echo 'ENV PATH=/usr/lib/postgresql/15/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
      echo 'ENV PGDATA=/var/lib/postgresql/data'
      echo 'ENTRYPOINT ["docker-entrypoint.sh"]'
      echo 'CMD ["postgres"]'
      ;;
    prom/*)
      echo 'USER 65534'
      echo 'WORKDIR /prometheus'
      echo 'ENTRYPOINT ["/usr/bin/prometheus"]'
      ;;
    nginx:*) echo 'CMD ["nginx", "-g", "daemon off;"]' ;;
  esac
}

make_image() { # NAME PACKAGES
  local name=$1 packages=$2 root=$FOLDER/root.$$ line
  docker image inspect "$name" >/dev/null 2>&1 && return
  echo "making $name of Debian's packages" >&2
  debootstrap --variant=minbase --include="$packages" "$SUITE" "$root" >"$FOLDER/debootstrap.log" 2>&1 ||
    { tail -n 5 "$FOLDER/debootstrap.log" >&2; exit 1; }
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  # as this machine trusts them: builds may reach a registry of packages through a proxy
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
  finish "$name" "$root"
  local options=()
  while read -r line; do options+=(--change "$line"); done < <(changes "$name")
  tar -C "$root" -c . | docker import "${options[@]}" - "$name" >/dev/null
  rm -rf "$root"
}

up() {
  mkdir -p "$FOLDER"
  if ! command -v dockerd debootstrap docker-compose >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq docker.io docker-compose debootstrap \
      >"$FOLDER/apt.log" 2>&1 || { tail -n 5 "$FOLDER/apt.log" >&2; exit 1; }
  fi
  export DOCKER_HOST=$SOCKET
  if ! docker info >/dev/null 2>&1; then
    setsid dockerd --data-root "$FOLDER/data" --exec-root "$FOLDER/exec" -H "$SOCKET" \
      --pidfile "$FOLDER/pid" >"$FOLDER/dockerd.log" 2>&1 </dev/null &
    for _ in {1..120}; do
      docker info >/dev/null 2>&1 && break
      sleep 0.5
    done
    docker info >/dev/null 2>&1 || { tail -n 5 "$FOLDER/dockerd.log" >&2; exit 1; }
  fi
  local name packages
  while read -r name packages; do make_image "$name" "$packages"; done < <(base_images)
}

case ${1:-} in
  up) up ;;
  down) [[ ! -f $FOLDER/pid ]] || kill "$(cat "$FOLDER/pid")" ;;
  env) echo "export DOCKER_HOST=$SOCKET DOCKER_BUILDKIT=0 COMPOSE_DOCKER_CLI_BUILD=0" ;;
  *)
    sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
