# Training, conversion and data: the command `galen` with torch for the CPU.
#
#   docker build -f deploy/docker/training.Dockerfile -t galen-training .
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
RUN PIP_MORE_INDEX="${TORCH_INDEX}" deploy/docker/install_packages.sh training,datagen,evaluation constraints/cpu.txt "${TORCH}"

FROM ${PYTHON_IMAGE} AS root
COPY deploy/docker/strip_root.py /build/strip_root.py
RUN ["python3", "/build/strip_root.py"]

FROM scratch
ARG VERSION=unversioned
ARG REVISION=unknown
LABEL org.opencontainers.image.title="galen-training" \
  org.opencontainers.image.description="Galen's training: curriculum, fine-tuning, conversion and instruction data" \
  org.opencontainers.image.licenses="Apache-2.0" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.revision="${REVISION}"
COPY --from=root / /
COPY --from=root --chown=10001:10001 /data /data
COPY --from=builder /opt/galen /opt/galen
WORKDIR /app
COPY LICENSE NOTICE ./
COPY services services
COPY training training
COPY datagen datagen
COPY evaluation evaluation
COPY modeling modeling
ENV PATH=/opt/galen/bin:/usr/local/bin:/usr/bin \
  PYTHONPATH=/app \
  PYTHONDONTWRITEBYTECODE=1 \
  PYTHONUNBUFFERED=1 \
  HOME=/tmp
RUN ["python", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "/app"]
USER 10001:10001
VOLUME /data
ENTRYPOINT ["galen"]
CMD ["train", "--help"]
