#!/bin/sh
# Moves the locks on purpose, shows what moved against the last commit, installs it into .venv and runs the stack's own tests.
# UPGRADE=--upgrade takes all that the pins allow, PACKAGE=httpx one package; neither: what a changed requirements/*.in asks for.
set -eu
cd "$(dirname "$0")/.."
before=$(mktemp -d) && trap 'rm -rf "$before"' EXIT

say() { printf 'refresh: %s\n' "$*" >&2; }

ffmpeg() { .venv/bin/python -c "import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())"; }

prove() {
  sh tools/bootstrap.sh && .venv/bin/python -m worker.model_files pull --profile test --model-dir .local/models &&
    SPILLWAY_DEVICE=cpu SPILLWAY_FFMPEG=$(ffmpeg) .venv/bin/python -m worker.doctor --build && .venv/bin/python -m pytest tests/test_lock.py && .venv/bin/python -m pytest -m models
}

git archive HEAD requirements | tar -x -C "$before"
[ -z "${PACKAGE:-}" ] || UPGRADE="${UPGRADE:-} --upgrade-package $PACKAGE"
UPGRADE=${UPGRADE:-} sh tools/lock.sh
.venv/bin/python -m tools.lock_changes "$before/requirements" requirements
git diff --quiet HEAD -- requirements && exit 0
if prove; then
  say "the stack lives on the new lock. Keep it:  git add requirements && git commit"
else
  say "the stack does not live on the new lock. The old one is still in git:  git checkout HEAD -- requirements && make setup"
  exit 1
fi
