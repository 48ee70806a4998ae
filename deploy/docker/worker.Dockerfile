# A worker on a CPU: torch and transformers, and the miniature that ships with Galen.
#
#   docker build -f deploy/docker/worker.Dockerfile -t galen-worker .
#
# torch for the CPU comes from where pip finds `torch==...+cpu`: an index of its own, or wheels in
# deploy/docker/wheels (`pip download --no-deps torch==2.13.0+cpu -d deploy/docker/wheels`).
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS builder
WORKDIR /build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG TORCH=torch==2.13.0+cpu
COPY pyproject.toml LICENSE ./
COPY constraints constraints
COPY deploy/docker/install_packages.sh deploy/docker/install_packages.sh
COPY deploy/docker/wheels wheels
RUN PIP_MORE_INDEX="${TORCH_INDEX}" deploy/docker/install_packages.sh worker,tracing constraints/cpu.txt "${TORCH}"

FROM ${PYTHON_IMAGE} AS root
COPY deploy/docker/strip_root.py /build/strip_root.py
RUN ["python3", "/build/strip_root.py"]

FROM scratch
ARG VERSION=unversioned
ARG REVISION=unknown
LABEL org.opencontainers.image.title="galen-worker" \
  org.opencontainers.image.description="Galen's worker: runs a model on a CPU with transformers" \
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
COPY services/worker services/worker
COPY services/protocol services/protocol
COPY services/tracing services/tracing
COPY modeling modeling
ENV PATH=/opt/galen/bin:/usr/local/bin:/usr/bin \
  PYTHONPATH=/app \
  PYTHONDONTWRITEBYTECODE=1 \
  PYTHONUNBUFFERED=1 \
  HOME=/tmp \
  GALEN_WORKER_METRICS_HOST=0.0.0.0 \
  GALEN_WORKER_METRICS_PORT=9100
RUN ["python", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "/app"]
USER 10001:10001
EXPOSE 9100
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
  CMD ["python", "-m", "services.health_check", "http://127.0.0.1:9100/readyz"]
ENTRYPOINT ["python", "-m", "services.worker.main"]
