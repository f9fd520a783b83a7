#!/bin/sh
# Makes the hashed locks from the short input files: requirements/{dev,worker,service}.txt, what PyPI's torch needs, and the tools'.
# Run it on purpose (`make lock`): nothing else moves a version. `make lock UPGRADE=--upgrade` takes the newest that the pins allow.
set -eu
cd "$(dirname "$0")/../requirements"
UV=$(sh ../tools/uv.sh)
# What PyPI's torch 2.0.0 names besides triton: the image's torch carries these libraries itself, and one cuDNN is the rule.
cuda="nvidia-cublas-cu11 nvidia-cuda-cupti-cu11 nvidia-cuda-nvrtc-cu11 nvidia-cuda-runtime-cu11 nvidia-cudnn-cu11
nvidia-cufft-cu11 nvidia-curand-cu11 nvidia-cusolver-cu11 nvidia-cusparse-cu11 nvidia-nccl-cu11 nvidia-nvtx-cu11"

compile() { # compile OUTPUT INPUT... [OPTION...]
  out=$1; shift
  "$UV" pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_31 --generate-hashes \
    --emit-build-options --override overrides.in --custom-compile-command "make lock" \
    --no-emit-package torch --no-emit-package torchaudio ${UPGRADE:-} --output-file "$out" "$@"
  # To pip, not to uv, the order says which holds: the exception has to come last.
  sed -i -e '/^--no-binary /{h;d;}' -e '/^--only-binary /{x;/./{x;G;b;};x;}' "$out"
}
without() { for package in "$@"; do printf -- '--no-emit-package %s ' "$package"; done; }

# dev.txt holds every role, so the others are cut from it and cannot disagree with it.
# shellcheck disable=SC2046
compile dev.txt dev.in --constraint torch.txt $(without $cuda)
# shellcheck disable=SC2046
compile worker.txt worker.in --constraint torch.txt --constraint dev.txt $(without $cuda)
compile service.txt service.in --constraint dev.txt
compile torch-pypi.txt torch.txt --constraint dev.txt
compile uv.txt uv.in
compile tools.txt tools.in
