# The two images of Spillway: `service` (small, no CUDA; service, dispatcher, init) and `worker`, the last stage.
# Modal builds `installer` and `stack`, which modal_deploy.py cuts out of here, and adds the code. Hence plain instructions only: its
# builder knows no target, no RUN --mount, no heredoc, and reads COPY itself.
# What each argument is for, and what to do when a tag or an index is gone: docs/image.md.

# "devel" for cuBLAS 12 and the unversioned libnvrtc.so; no cuDNN in it, because torch brings the only one.
ARG BASE_IMAGE=nvidia/cuda:12.4.0-devel-ubuntu22.04
ARG SERVICE_IMAGE=python:3.11-slim-bookworm

# --- what installs: uv by its hash, left out of the service's image -------------------------------------------------------
FROM ${SERVICE_IMAGE} AS installer
COPY requirements/uv.txt /build/
RUN python3 -m pip install --no-cache-dir --disable-pip-version-check --require-hashes --target /opt/uv -r /build/uv.txt

FROM installer AS service-packages
COPY requirements/service.txt /build/
RUN python3 -m venv /opt/venv \
 && /opt/uv/bin/uv pip install --no-cache --python /opt/venv --no-deps --require-hashes --compile-bytecode -r /build/service.txt

# --- service: the queue's API, the dispatcher, init -----------------------------------------------------------------------
FROM ${SERVICE_IMAGE} AS service
RUN apt-get update \
 && apt-get install -y --no-install-recommends ffmpeg \
 && rm -rf /var/lib/apt/lists/*
COPY --from=service-packages /opt/venv /opt/venv
# Volumes take their owner from these folders when they are new.
RUN install -d -o 10001 -g 10001 /run/spillway /run/spillway-keys /run/spillway-signing /var/lib/spillway/files /var/lib/spillway/redis
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp
WORKDIR /app
COPY samples /app/samples
COPY client /app/client
COPY core /app/core
COPY dispatcher /app/dispatcher
COPY service /app/service
# What `modal deploy modal_deploy.py` sends to Modal, so that it needs this image and nothing else.
COPY Dockerfile modal_deploy.py /app/
COPY requirements/torch-pypi.txt requirements/torch.txt requirements/uv.txt requirements/worker.txt /app/requirements/
COPY worker /app/worker
RUN python -m compileall -q /app
CMD ["python", "-m", "gunicorn", "--config", "service/gunicorn_conf.py", "service.wsgi:create()"]

# --- stack: what the worker's code runs on, and no line of that ------------------------------------------------------------
FROM ${BASE_IMAGE} AS stack
# uv: python-build-standalone, whose digest uv carries; deadsnakes: Ubuntu's PPA; distro: the base's own, for one that has a released
# 3.11 (jammy's is a release candidate, which the doctor refuses).
ARG PYTHON_SOURCE=uv
ARG PYTHON_VERSION=3.11.18
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates ffmpeg git \
 && case "$PYTHON_SOURCE" in \
      uv) ;; \
      deadsnakes) apt-get install -y --no-install-recommends gpg-agent software-properties-common \
        && add-apt-repository -y ppa:deadsnakes/ppa && apt-get install -y --no-install-recommends python3.11 python3.11-venv ;; \
      distro) apt-get install -y --no-install-recommends python3.11 python3.11-venv ;; \
      *) echo "PYTHON_SOURCE is $PYTHON_SOURCE: it is uv, deadsnakes or distro" >&2; exit 1 ;; \
    esac \
 && rm -rf /var/lib/apt/lists/*
COPY --from=installer /opt/uv /opt/uv
RUN python=python3.11 \
 && if [ "$PYTHON_SOURCE" = uv ]; then \
      /opt/uv/bin/uv python install --no-cache --no-bin --install-dir /opt/python "$PYTHON_VERSION" \
      && python=$(echo /opt/python/cpython-"$PYTHON_VERSION"-*/bin/python3.11); \
    fi \
 && "$python" -m venv /opt/venv
# One cuDNN 8 by design: torch's. cu118's wheel has it in torch/lib, PyPI's in nvidia/cudnn/lib, and an installation has one of the two.
# Set here and not at run time: the loader reads the path once, before Python.
ENV PATH=/opt/venv/bin:/usr/local/nvidia/bin:/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    LD_LIBRARY_PATH=/opt/venv/lib/python3.11/site-packages/torch/lib:/opt/venv/lib/python3.11/site-packages/nvidia/cudnn/lib:/opt/venv/lib/python3.11/site-packages/nvidia/cublas/lib:/usr/local/cuda/lib64:/usr/local/nvidia/lib:/usr/local/nvidia/lib64

# The torch pair first: the largest layer, and the one that changes least.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cu118
ARG TORCH_VERSION=2.0.0
ARG TORCHAUDIO_VERSION=2.0.0
# The second try is for an index that marks torchaudio 2.0.0 as yanked: uv then takes it by its local version only (2.0.0+cu118).
RUN install="/opt/uv/bin/uv pip install --no-cache --python /opt/venv --no-deps --compile-bytecode --default-index $TORCH_INDEX" \
 && { $install "torch==$TORCH_VERSION" "torchaudio==$TORCHAUDIO_VERSION" \
      || $install "torch==$TORCH_VERSION" "torchaudio==$TORCHAUDIO_VERSION+${TORCH_INDEX##*/}"; } \
 && mkdir -p /app/requirements \
 && printf 'torch==%s\ntorchaudio==%s\n' "$TORCH_VERSION" "$TORCHAUDIO_VERSION" > /app/requirements/torch.txt
# PyPI's torch names its CUDA libraries as packages of their own, cu118's carries them.
COPY requirements/torch-pypi.txt requirements/worker.txt /app/requirements/
RUN install="/opt/uv/bin/uv pip install --no-cache --python /opt/venv --no-deps --require-hashes --compile-bytecode" \
 && install="$install --build-constraint /app/requirements/worker.txt" \
 && if grep -q '^Requires-Dist: nvidia-cudnn' /opt/venv/lib/python3.11/site-packages/torch-*.dist-info/METADATA; then \
      $install -r /app/requirements/torch-pypi.txt; \
    fi \
 && $install -r /app/requirements/worker.txt

# none: built on a base without CUDA; the doctor then says "not checked", and a GPU start is refused.
ARG GPU_STACK=cu118
ENV SPILLWAY_GPU_STACK=$GPU_STACK \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    NVIDIA_REQUIRE_CUDA=cuda>=12.0 \
    CUDA_DEVICE_ORDER=PCI_BUS_ID \
    CUDA_CACHE_PATH=/var/lib/spillway/cuda-cache \
    CUDA_CACHE_MAXSIZE=4294967296 \
    HF_HOME=/var/lib/spillway/models/.hub \
    TORCH_HOME=/var/lib/spillway/models/.torch \
    MPLCONFIGDIR=/tmp/matplotlib \
    NUMBA_CACHE_DIR=/tmp/numba \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp
RUN install -d -o 10001 -g 10001 /run/spillway /var/lib/spillway/files /var/lib/spillway/models /var/lib/spillway/cuda-cache
WORKDIR /app
ENTRYPOINT []

# --- worker ----------------------------------------------------------------------------------------------------------------
FROM stack AS worker
CMD ["python", "-m", "worker"]
COPY samples /app/samples
COPY core /app/core
COPY worker /app/worker
# An image with a library missing, doubled or of another version is not built.
RUN python -m compileall -q /app && python -m worker.doctor --build
