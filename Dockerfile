# Two images of one server: `--target gpu`, the default, and `--target cpu`. docs/deploy.md says how to build and run them.

# A digest goes behind the tag: debian:bookworm-slim@sha256:...
ARG CPU_IMAGE=debian:bookworm-slim
ARG CUDA_DEVEL_IMAGE=nvidia/cuda:13.0.2-devel-ubuntu24.04
# "base", not "runtime": cuBLAS, cuDNN and NCCL come with torch and would be there twice.
ARG CUDA_RUNTIME_IMAGE=nvidia/cuda:13.0.2-base-ubuntu24.04
# Which build of them this is depends on the package index: pip takes a "+cpu" before any other.
ARG TORCH="torch==2.13.0 torchvision==0.28.0"
# Of pyproject.toml.
ARG EXTRAS="server telemetry"


FROM ${CPU_IMAGE} AS cpu-build
ARG TORCH
ARG EXTRAS
ENV FORCE_CPU=1 DEBIAN_FRONTEND=noninteractive
# Debian's own versions: the base image's tag pins the release.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates g++ python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY pyproject.toml ./
COPY deploy/image/build.sh deploy/image/
RUN sh deploy/image/build.sh dependencies "${TORCH}" "${EXTRAS}"
COPY . .
RUN sh deploy/image/build.sh package


FROM ${CPU_IMAGE} AS cpu
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="intarsia" \
      org.opencontainers.image.description="gRPC microservice for segmentation-based multi-style transfer" \
      org.opencontainers.image.licenses="MIT AND CC-BY-4.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 intarsia \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin intarsia \
    && install -d -m 0700 -o 10001 -g 10001 /data
COPY --from=cpu-build /opt/intarsia /opt/intarsia
ENV PATH=/opt/intarsia/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    INTARSIA_ADDRESS=0.0.0.0:50051 \
    INTARSIA_DATA_DIR=/data
USER 10001:10001
WORKDIR /data
VOLUME ["/data"]
# gRPC; metrics, where INTARSIA_METRICS_ADDRESS asks for them.
EXPOSE 50051 9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["intarsia-health"]
ENTRYPOINT ["intarsia", "serve"]


FROM ${CUDA_DEVEL_IMAGE} AS gpu-build
ARG TORCH
ARG EXTRAS
ARG TORCH_CUDA_ARCH_LIST="8.0;8.6;8.9;9.0+PTX"
# FORCE_CUDA: no image without the kernels.
ENV FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST} DEBIAN_FRONTEND=noninteractive
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates g++ python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY pyproject.toml ./
COPY deploy/image/build.sh deploy/image/
RUN sh deploy/image/build.sh dependencies "${TORCH}" "${EXTRAS}"
COPY . .
RUN sh deploy/image/build.sh package


# From here on as `cpu`.
FROM ${CUDA_RUNTIME_IMAGE} AS gpu
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="intarsia" \
      org.opencontainers.image.description="gRPC microservice for segmentation-based multi-style transfer" \
      org.opencontainers.image.licenses="MIT AND CC-BY-4.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 intarsia \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin intarsia \
    && install -d -m 0700 -o 10001 -g 10001 /data
COPY --from=gpu-build /opt/intarsia /opt/intarsia
ENV PATH=/opt/intarsia/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    INTARSIA_ADDRESS=0.0.0.0:50051 \
    INTARSIA_DATA_DIR=/data
USER 10001:10001
WORKDIR /data
VOLUME ["/data"]
# gRPC; metrics, where INTARSIA_METRICS_ADDRESS asks for them.
EXPOSE 50051 9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["intarsia-health"]
ENTRYPOINT ["intarsia", "serve"]
