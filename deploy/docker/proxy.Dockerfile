# TLS in front of gateway and page: nginx's own image with our configuration, for a user that is not
# root.
#
#   docker build -f deploy/docker/proxy.Dockerfile -t galen-proxy .
#
ARG NGINX_IMAGE=nginx:1.28-bookworm
FROM ${NGINX_IMAGE}
ARG VERSION=unversioned
ARG REVISION=unknown
LABEL org.opencontainers.image.title="galen-proxy" \
  org.opencontainers.image.description="nginx, set up for Galen" \
  org.opencontainers.image.licenses="Apache-2.0" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.revision="${REVISION}"
COPY deploy/compose/nginx.conf.template deploy/compose/start_proxy.sh /etc/galen/
RUN mkdir -p /data && chown 10001:10001 /data
USER 10001:10001
EXPOSE 8443
ENTRYPOINT ["/etc/galen/start_proxy.sh"]
