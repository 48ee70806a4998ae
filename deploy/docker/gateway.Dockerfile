# The gateway: HTTP on one side, Redis on the other. No torch, no shell.
#
#   docker build -f deploy/docker/gateway.Dockerfile -t galen-gateway .
#
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS builder
WORKDIR /build
COPY pyproject.toml LICENSE ./
COPY constraints constraints
COPY deploy/docker/install_packages.sh deploy/docker/install_packages.sh
RUN deploy/docker/install_packages.sh postgres,tracing

FROM ${PYTHON_IMAGE} AS root
COPY deploy/docker/strip_root.py /build/strip_root.py
RUN ["python3", "/build/strip_root.py"]

FROM scratch
ARG VERSION=unversioned
ARG REVISION=unknown
LABEL org.opencontainers.image.title="galen-gateway" \
  org.opencontainers.image.description="Galen's gateway: OpenAI-compatible routes for medical vision-language models" \
  org.opencontainers.image.licenses="Apache-2.0" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.revision="${REVISION}"
COPY --from=root / /
COPY --from=root --chown=10001:10001 /data /data
COPY --from=builder /opt/galen /opt/galen
WORKDIR /app
COPY LICENSE NOTICE ./
COPY services/__init__.py services/telemetry.py services/settings_guard.py services/health_check.py \
  services/die_with_parent.py services/private_folder.py services/
COPY services/gateway services/gateway
COPY services/protocol services/protocol
COPY services/tracing services/tracing
COPY services/store services/store
COPY services/endpoint_client services/endpoint_client
COPY modeling/*.py modeling/
COPY modeling/medical_images modeling/medical_images
COPY modeling/presets modeling/presets
# the command `galen`, which knows every service's settings
COPY services/cli.py services/
COPY services/launcher services/launcher
COPY services/ui/__init__.py services/ui/settings.py services/ui/
COPY services/worker/__init__.py services/worker/settings.py services/worker/
COPY evaluation/__init__.py evaluation/
COPY evaluation/jobs/__init__.py evaluation/jobs/settings.py evaluation/jobs/
ENV PATH=/opt/galen/bin:/usr/local/bin:/usr/bin \
  PYTHONPATH=/app \
  PYTHONDONTWRITEBYTECODE=1 \
  PYTHONUNBUFFERED=1 \
  HOME=/tmp \
  GALEN_GATEWAY_HOST=0.0.0.0 \
  GALEN_STORE_DIR=/data
RUN ["python", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "/app"]
USER 10001:10001
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-m", "services.health_check", "http://127.0.0.1:8000/readyz"]
ENTRYPOINT ["python", "-m", "services.gateway.main"]
