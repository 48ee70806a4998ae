#!/bin/sh
# The part of the published image's entry point that compose relies on, for an image made of Debian's
# packages: runs as the user it is started as, makes the database at the first start, becomes the
# server. POSTGRES_USER, POSTGRES_DB and POSTGRES_PASSWORD_FILE as there.
set -eu
if [ "${1:-postgres}" != postgres ]; then exec "$@"; fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  user=${POSTGRES_USER:-postgres}
  initdb -D "$PGDATA" -U "$user" --pwfile="$POSTGRES_PASSWORD_FILE" \
    --auth-host=scram-sha-256 --auth-local=trust >/dev/null
  echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
  pg_ctl -D "$PGDATA" -o "-c listen_addresses= -k /tmp" -w start >/dev/null
  createdb -h /tmp -U "$user" "${POSTGRES_DB:-$user}"
  pg_ctl -D "$PGDATA" -w stop >/dev/null
fi
shift
exec postgres -D "$PGDATA" -c "listen_addresses=*" "$@"
