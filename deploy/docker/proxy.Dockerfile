# TLS in front of gateway and page. Caddy's own image with our configuration, for a user that is not
# root.
#
#   docker build -f deploy/docker/proxy.Dockerfile -t galen-proxy .
#
ARG CADDY_IMAGE=caddy:2.10
FROM ${CADDY_IMAGE}
ARG VERSION=unversioned
ARG REVISION=unknown
LABEL org.opencontainers.image.title="galen-proxy" \
  org.opencontainers.image.description="Caddy, set up for Galen" \
  org.opencontainers.image.licenses="Apache-2.0" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.revision="${REVISION}"
COPY deploy/compose/Caddyfile /etc/caddy/Caddyfile
RUN mkdir -p /data /config && chown -R 10001:10001 /data /config
ENV XDG_DATA_HOME=/data XDG_CONFIG_HOME=/config
USER 10001:10001
EXPOSE 8443
CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]
