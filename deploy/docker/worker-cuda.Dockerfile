# A worker on cards: vLLM, or transformers with tensor parallelism, bitsandbytes and flash-attn.
#
#   docker build -f deploy/docker/worker-cuda.Dockerfile -t galen-worker-cuda .
#
# Its final stage keeps a compiler and a shell: vLLM's kernels in Triton are compiled at the first
# use. It needs a driver for CUDA 13 (580 or newer) and about 20 GB while it is built.
ARG CUDA_IMAGE=nvidia/cuda:13.0.2-devel-ubuntu24.04
ARG CUDA_BASE_IMAGE=nvidia/cuda:13.0.2-base-ubuntu24.04

FROM ${CUDA_IMAGE} AS builder
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install --yes --no-install-recommends \
    build-essential ninja-build python3 python3-dev python3-venv \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY pyproject.toml LICENSE ./
COPY constraints constraints
COPY deploy/docker/install_packages.sh deploy/docker/install_packages.sh
COPY deploy/docker/wheels wheels
# vLLM brings its own kernels of flash attention. For the transformers engine `--build-arg
# FLASH_ATTN=flash-attn` compiles the package, unless wheels/ has it: half an hour and 4 GB per job.
# Without it that engine uses torch's own attention.
ARG FLASH_ATTN=
ARG MAX_JOBS=4
RUN deploy/docker/install_packages.sh vllm-gpu,tracing constraints/gpu.txt
RUN if [ -n "${FLASH_ATTN}" ]; then \
    python3 -m venv /tmp/pip && /tmp/pip/bin/pip --python /opt/galen/bin/python install \
      --no-cache-dir --find-links wheels -c constraints/gpu.txt ninja packaging setuptools wheel \
    && MAX_JOBS="${MAX_JOBS}" /tmp/pip/bin/pip --python /opt/galen/bin/python install \
      --no-cache-dir --no-build-isolation --find-links wheels -c constraints/gpu.txt \
      "${FLASH_ATTN}"; \
  fi

FROM ${CUDA_BASE_IMAGE}
ARG VERSION=unversioned
ARG REVISION=unknown
LABEL org.opencontainers.image.title="galen-worker-cuda" \
  org.opencontainers.image.description="Galen's worker on cards: vLLM, and tensor-parallel transformers" \
  org.opencontainers.image.licenses="Apache-2.0" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.revision="${REVISION}"
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install --yes --no-install-recommends gcc g++ python3 python3-dev \
  && rm -rf /var/lib/apt/lists/* \
  && groupadd --gid 10001 galen \
  && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin galen
COPY --from=builder /opt/galen /opt/galen
WORKDIR /app
COPY LICENSE NOTICE ./
COPY services/__init__.py services/telemetry.py services/settings_guard.py services/health_check.py \
  services/die_with_parent.py services/private_folder.py services/
COPY services/worker services/worker
COPY services/protocol services/protocol
COPY services/tracing services/tracing
COPY modeling modeling
ENV PATH=/opt/galen/bin:/usr/local/bin:/usr/bin:/bin \
  PYTHONPATH=/app \
  PYTHONDONTWRITEBYTECODE=1 \
  PYTHONUNBUFFERED=1 \
  HOME=/tmp \
  GALEN_WORKER_METRICS_HOST=0.0.0.0 \
  GALEN_WORKER_METRICS_PORT=9100
USER 10001:10001
EXPOSE 9100
HEALTHCHECK --interval=10s --timeout=5s --start-period=900s --retries=3 \
  CMD ["python", "-m", "services.health_check", "http://127.0.0.1:9100/readyz"]
ENTRYPOINT ["python", "-m", "services.worker.main"]
