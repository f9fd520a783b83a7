# What is printed, and the small tools of every check. Read by ../../preflight.
# shellcheck shell=sh
PATIENCE_S=${PREFLIGHT_PATIENCE_S:-4}
faults=0 red='' yellow='' green='' plain=''

choose_colours() {
  [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ] || return 0
  red=$(printf '\033[31m') yellow=$(printf '\033[33m') green=$(printf '\033[32m') plain=$(printf '\033[0m')
}

row() { # row VERDICT CHECK FOUND
  case $1 in
    ok) colour=$green ;;
    warning) colour=$yellow ;;
    wrong) colour=$red faults=$((faults + 1)) ;;
    *) colour='' ;;
  esac
  printf '%s%-11s%s  %-8s  %s\n' "$colour" "$1" "${colour:+$plain}" "$2" "$3"
}

remedy() { for line in "$@"; do printf '%23s%s\n' '' "$line"; done; }

there() { command -v "$1" >/dev/null 2>&1; }

bounded() { if there timeout; then timeout "$PATIENCE_S" "$@"; else "$@"; fi; }

at_least() { # at_least VERSION LEAST: by their numbers, so that 2.24.5+ds1 and v2.24.5 are 2.24.5
  awk -v have="${1#v}" -v least="$2" 'BEGIN {
    split(have, h, /[^0-9]+/); n = split(least, l, /[^0-9]+/)
    for (i = 1; i <= n; i++) if (h[i] + 0 != l[i] + 0) exit h[i] + 0 < l[i] + 0
  }'
}

is_number() { case $1 in '' | *[!0-9]*) return 1 ;; esac; }

complaint() { printf '%s\n' "$1" | awk 'NF && !/^[{]/ { print; exit }'; }

setting() { # from the environment, else from .env beside this file, which is read and never run
  printenv "$1" && return
  [ -r "$HERE/.env" ] || return 0
  awk -v key="$1" '
    { sub(/\r$/, ""); sub(/^[ \t]*(export[ \t]+)?/, "") }
    index($0, key "=") == 1 {
      value = substr($0, length(key) + 2); quote = substr(value, 1, 1)
      if (quote == "\"" || quote == "\047") { value = substr(value, 2); sub(quote ".*", "", value) }
      else { sub(/[ \t]+#.*/, "", value); sub(/[ \t]+$/, "", value) }
    }
    END { print value }' "$HERE/.env"
}
