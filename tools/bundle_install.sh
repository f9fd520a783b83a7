#!/bin/sh
# ./install FOLDER [worker|service]: makes an environment in FOLDER from this bundle alone, without a network.
# Needs sha256sum and Python 3.11 (python3.11 on PATH, or PYTHON=/path/to/python).
set -eu
bundle=$(cd "$(dirname "$0")" && pwd)

die() { printf 'install: %s\n' "$*" >&2; exit 1; }

folder=${1:-}
role=${2:-worker}
[ -n "$folder" ] || die "say where: ./install FOLDER [worker|service]"
[ -f "$bundle/$role.txt" ] || die "there is no $role in this bundle: worker or service"
[ ! -e "$folder" ] || die "$folder is there already: name a folder that is not"
python=$(command -v "${PYTHON:-python3.11}") || die "Python 3.11 is not on PATH: install it, or name it with PYTHON=/path/to/python"
"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || die "$python is no Python 3.11"
(cd "$bundle" && sha256sum --check --quiet --strict manifest.sha256) || die "the bundle is damaged: bring it here once more"

work=$(mktemp -d) && trap 'rm -rf "$work"' EXIT
"$python" -m zipfile -e "$bundle"/wheels/uv-*.whl "$work" # a wheel is a zip file, and uv in it one program
uv=$(echo "$work"/uv-*.data/scripts/uv) && chmod +x "$uv"
export UV_CACHE_DIR="$work/cache" UV_NO_CONFIG=1 UV_OFFLINE=1 UV_PYTHON_DOWNLOADS=never
# Relocatable: the commands in bin/ name no folder, and so RECORD, which holds their digests, is the same everywhere.
"$uv" venv --quiet --relocatable --python "$python" "$folder"
"$uv" pip install --quiet --python "$folder/bin/python" --no-index --find-links "$bundle/wheels" --no-deps --require-hashes \
  --link-mode copy --requirement "$bundle/$role.txt"
echo "install: the $role's environment is in $folder; models are in $bundle/models (SPILLWAY_MODEL_DIR)"
