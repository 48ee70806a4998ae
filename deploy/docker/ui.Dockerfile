# The page: Gradio over a gateway. No torch, no shell.
#
#   docker build -f deploy/docker/ui.Dockerfile -t galen-ui .
#
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS builder
WORKDIR /build
COPY pyproject.toml LICENSE ./
COPY constraints constraints
COPY deploy/docker/install_packages.sh deploy/docker/install_packages.sh
RUN deploy/docker/install_packages.sh ui

FROM ${PYTHON_IMAGE} AS root
COPY deploy/docker/strip_root.py /build/strip_root.py
RUN ["python3", "/build/strip_root.py"]

FROM scratch
ARG VERSION=unversioned
ARG REVISION=unknown
LABEL org.opencontainers.image.title="galen-ui" \
  org.opencontainers.image.description="Galen's page: chat, comparison, evaluations and status over a gateway" \
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
COPY services/ui services/ui
COPY services/protocol services/protocol
COPY services/endpoint_client services/endpoint_client
COPY modeling/*.py modeling/
COPY modeling/medical_images modeling/medical_images
COPY modeling/presets modeling/presets
# the scans of the example cards

COPY modeling/demo_model/*.png modeling/demo_model/scans.json modeling/demo_model/
ENV PATH=/opt/galen/bin:/usr/local/bin:/usr/bin \
  PYTHONPATH=/app \
  PYTHONDONTWRITEBYTECODE=1 \
  PYTHONUNBUFFERED=1 \
  HOME=/tmp \
  GALEN_UI_HOST=0.0.0.0
RUN ["python", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "/app"]
USER 10001:10001
EXPOSE 7860
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-m", "services.health_check", "http://127.0.0.1:7860/healthz"]
ENTRYPOINT ["python", "-m", "services.ui.main"]
