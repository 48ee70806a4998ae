# A job worker: batches and evaluations, through a gateway. No torch, no shell.
#
#   docker build -f deploy/docker/evaluation.Dockerfile -t galen-evaluation .
#
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS builder
WORKDIR /build
COPY pyproject.toml LICENSE ./
COPY constraints constraints
COPY deploy/docker/install_packages.sh deploy/docker/install_packages.sh
RUN deploy/docker/install_packages.sh evaluation,postgres

FROM ${PYTHON_IMAGE} AS root
COPY deploy/docker/strip_root.py /build/strip_root.py
RUN ["python3", "/build/strip_root.py"]

FROM scratch
ARG VERSION=unversioned
ARG REVISION=unknown
LABEL org.opencontainers.image.title="galen-evaluation" \
  org.opencontainers.image.description="Galen's job worker: batches and evaluations on Celery" \
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
COPY services/protocol services/protocol
COPY services/store services/store
COPY services/endpoint_client services/endpoint_client
COPY evaluation evaluation
COPY modeling/*.py modeling/
COPY modeling/medical_images modeling/medical_images
COPY modeling/presets modeling/presets
ENV PATH=/opt/galen/bin:/usr/local/bin:/usr/bin \
  PYTHONPATH=/app \
  PYTHONDONTWRITEBYTECODE=1 \
  PYTHONUNBUFFERED=1 \
  HOME=/tmp \
  GALEN_STORE_DIR=/data
RUN ["python", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "/app"]
USER 10001:10001
VOLUME /data
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-m", "evaluation.jobs.health"]
ENTRYPOINT ["python", "-m", "evaluation.jobs.main"]
