#!/bin/sh
# Makes .venv from the lock files, or does nothing in milliseconds when it is already theirs. Needs Linux, and uv or any Python 3.
set -eu
cd "$(dirname "$0")/.."
NEEDS_GB=7 # 5.3 GB of packages, and room for the largest download beside its unpacked copy
LOCKS="requirements/dev.txt requirements/torch-pypi.txt requirements/torch.txt"
STAMP=.venv/spillway-lock

say() { printf 'bootstrap: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# shellcheck disable=SC2086
lock_digest() { cat $LOCKS | sha256sum | cut -d' ' -f1; }

check_disk() {
  free_gb=$(($(df -Pk . | awk 'NR == 2 { print $4 }') / 1048576))
  [ "$free_gb" -ge "$NEEDS_GB" ] || die "needs $NEEDS_GB GB for the packages, and $(pwd) has $free_gb GB free: make room there"
}

keep_caches_writable() {
  cache=$("$UV" cache dir 2>/dev/null) || cache=
  if [ -z "$cache" ] || ! mkdir -p "$cache" 2>/dev/null || [ ! -w "$cache" ]; then
    say "uv's cache ${cache:-folder} cannot be written: using .cache/ here instead"
    export UV_CACHE_DIR="$PWD/.cache/uv-cache" UV_PYTHON_INSTALL_DIR="$PWD/.cache/python"
  fi
}

make_venv() {
  if .venv/bin/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then return; fi
  "$UV" venv --quiet --clear --python 3.11 .venv 2>"$LOG" || {
    tail -n 3 "$LOG" >&2
    die "there is no Python 3.11, and uv could not fetch one: install python3.11, then run this again"
  }
}

sync_packages() {
  # The lock allows one source package and says which; what builds it comes from the lock too, or it would be the newest setuptools.
  # Offline first: the versions are pinned and the hashes checked, so the index has nothing to add to a warm cache.
  # shellcheck disable=SC2086
  "$UV" pip sync --quiet --offline --python .venv --build-constraint requirements/worker.txt $LOCKS 2>/dev/null && return
  say "downloading what uv's cache lacks, up to 3 GB"
  # shellcheck disable=SC2086
  "$UV" pip sync --python .venv --build-constraint requirements/worker.txt $LOCKS 2>"$LOG" && return
  tail -n 12 "$LOG" >&2
  if grep -qi 'no space left' "$LOG"; then die "the disk is full: $NEEDS_GB GB are needed here and in $("$UV" cache dir)"; fi
  if grep -qiE 'connect|dns|resolve host|timed out|network' "$LOG"; then
    die "no network, and uv's cache does not hold the packages: connect, or bring a filled cache (UV_CACHE_DIR)"
  fi
  die "the packages could not be installed: uv's words are above"
}

# The client's command, callable from any folder; the package itself is not installed, so that nothing but the lock is.
make_command() {
  printf '#!/bin/sh\nPYTHONPATH="$(dirname "$0")/../.." exec "$(dirname "$0")/python" -m client "$@"\n' >.venv/bin/spillway
  chmod +x .venv/bin/spillway
}

digest=$(lock_digest)
if [ -x .venv/bin/python ] && [ "$(cat "$STAMP" 2>/dev/null)" = "$digest" ]; then
  [ -x .venv/bin/spillway ] || make_command
  exit 0
fi
started=$(date +%s)
[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || die "the locked packages are for Linux on x86-64; this is $(uname -s) on $(uname -m)"
[ -d .venv/lib ] || check_disk
# uv knows pip's index only by its own name for it.
if [ -n "${PIP_INDEX_URL:-}" ] && [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then export UV_DEFAULT_INDEX="$PIP_INDEX_URL"; fi
LOG=$(mktemp) && trap 'rm -f "$LOG"' EXIT
mkdir -p .cache
UV=$(sh tools/uv.sh) || exit 1
keep_caches_writable
make_venv
sync_packages
make_command
echo "$digest" >"$STAMP"
say "the environment is ready after $(($(date +%s) - started)) s"
