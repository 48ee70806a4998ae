#!/bin/sh
# Start nginx for GALEN_DOMAIN: with the certificate in /certs (tls.crt, tls.key), or with one of its own,
# made at the first start and kept in /data, which clients have to be told to trust.
set -eu
umask 077

domain=${GALEN_DOMAIN:-localhost}
case $domain in
  *[!A-Za-z0-9.-]* | "")
    echo "start_proxy.sh: GALEN_DOMAIN is no host name: $domain" >&2
    exit 1
    ;;
esac

if [ -f /certs/tls.crt ] && [ -f /certs/tls.key ]; then
  cp /certs/tls.crt /certs/tls.key /tmp/
else
  if [ ! -s "/data/$domain.crt" ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 825 \
      -subj "/CN=$domain" -addext "subjectAltName=DNS:$domain,DNS:api.$domain" \
      -keyout "/data/$domain.key" -out "/data/$domain.crt.draft" 2>/tmp/openssl.log ||
      { cat /tmp/openssl.log >&2; exit 1; }
    mv "/data/$domain.crt.draft" "/data/$domain.crt"
  fi
  cp "/data/$domain.crt" /tmp/tls.crt
  cp "/data/$domain.key" /tmp/tls.key
fi
sed "s/@DOMAIN@/$domain/g" /etc/galen/nginx.conf.template >/tmp/nginx.conf
exec nginx -c /tmp/nginx.conf
