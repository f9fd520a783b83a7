#!/bin/sh
# Prints the uv to use: the one on PATH, else the pinned one, fetched into .cache/uv. requirements/uv.txt is where its version stands.
set -eu
cd "$(dirname "$0")/.."
UV_VERSION=$(sed -n 's/^uv==\([0-9.]*\).*/\1/p' requirements/uv.txt)

say() { printf 'uv: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

fetch_uv() {
  say "no uv here: installing uv $UV_VERSION into .cache/uv"
  mkdir -p .cache
  python=$(command -v python3.11 || command -v python3) || die "install Python 3.11 with its venv module, or uv, then run this again"
  if "$python" -m venv .cache/uv >/dev/null 2>&1; then
    .cache/uv/bin/python -m pip install --quiet --require-hashes -r requirements/uv.txt >&2 || die "pip could not install uv: is there a network?"
  else # Debian's python3 without python3-venv
    "$python" -m pip install --quiet --target .cache/uv --require-hashes -r requirements/uv.txt >&2 ||
      die "this Python has neither venv nor pip: install python3-venv, or uv, then run this again"
  fi
}

if command -v uv >/dev/null 2>&1 && uv --version >/dev/null 2>&1; then # a version manager's shim may stand on PATH for nothing
  command -v uv
  exit 0
fi
UV=$PWD/.cache/uv/bin/uv
"$UV" --version 2>/dev/null | grep -qE "^uv $UV_VERSION( |\$)" || fetch_uv
echo "$UV"
