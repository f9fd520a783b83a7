# The machine: its kind, a port, disk, memory. Read by ../../preflight.
# shellcheck shell=sh disable=SC2034,SC2154 # the parts share their findings
DISK_GB=40        # both images, their build, and the models
MEMORY_KB=7340032 # what the kernel leaves of 8 GB
wsl=''

check_machine() {
  system=$(uname -s) machine=$(uname -m)
  if [ "$system-$machine" != Linux-x86_64 ]; then
    row wrong machine "$system on $machine"
    remedy "The images are for Linux on x86-64: use such a machine."
    return
  fi
  case $(uname -r) in
    *microsoft-standard* | *WSL2*) wsl=2 && row ok machine "Linux x86_64, in WSL2" ;;
    *Microsoft*)
      row wrong machine "Linux x86_64, in WSL1, which has no GPU and no Docker of its own"
      remedy "In Windows: wsl --set-version ${WSL_DISTRO_NAME:-DISTRIBUTION} 2"
      ;;
    *) row ok machine "Linux x86_64" ;;
  esac
}

is_port() {
  case $1 in 0* | ??????* | *[!0-9]*) return 1 ;; esac
  [ "$1" -le 65535 ]
}

check_port() {
  port=$(setting SPILLWAY_PUBLISH_PORT)
  port=${port:-8000}
  if ! is_port "$port"; then
    row wrong port "SPILLWAY_PUBLISH_PORT is '$port', which is no port"
    remedy "Give a number from 1 to 65535, or leave it out for 8000."
    return
  fi
  [ -r "$ROOT/proc/net/tcp" ] || { row 'not checked' port "/proc/net/tcp cannot be read" && return; }
  if ! port_taken; then row ok port "$port is free"; return; fi
  holder=$(port_holder)
  case $holder in
    *" $HERE") row ok port "$port, held by this stack (${holder%% *})" ;;
    *)
      row wrong port "$port is taken${holder:+ by the container ${holder%% *}}"
      remedy "sudo ss -ltnp 'sport = :$port' names who holds it (make down, if it is make up's stack): stop that, or take another port:" \
        "SPILLWAY_PUBLISH_PORT=$((port < 65535 ? port + 1 : 8001)) in .env"
      ;;
  esac
}

port_taken() { # on 127.0.0.1 or on every address, of IPv4 or mapped; the kernel writes addresses as little-endian hexadecimals
  cat "$ROOT/proc/net/tcp" "$ROOT/proc/net/tcp6" 2>/dev/null | awk -v port="$(printf '%04X' "$port")" '
    $4 == "0A" && split($2, at, ":") == 2 && at[2] == port && (at[1] ~ /^0+$/ || at[1] ~ /0100007F$/) { taken = 1 }
    END { exit !taken }'
}

port_holder() { # NAME FOLDER of the container that publishes it
  [ -n "$engine" ] || return 0
  format='{{.Names}} {{.Label "com.docker.compose.project.working_dir"}}'
  bounded docker ps --filter "publish=$port" --format "$format" 2>/dev/null | head -n 1
}

check_disk() {
  if [ -n "$elsewhere" ]; then
    row warning disk "Docker keeps its data in $elsewhere: cannot be measured from here"
    remedy "See to it that $DISK_GB GB are free there."
    return
  fi
  place=$(info_field DockerRootDir)
  place=${place:-/var/lib/docker}
  free=$(free_gb "$place")
  if has io.containerd.snapshotter; then prefer_fuller /var/lib/containerd; fi # then images are containerd's, volumes Docker's
  is_number "$free" || { row 'not checked' disk "df does not tell what is free at $place" && return; }
  if [ "$free" -ge "$DISK_GB" ]; then row ok disk "$free GB free at $place"; return; fi
  if [ -n "$ours" ]; then
    row warning disk "$free GB free at $place; a rebuild and new models may want more, $DISK_GB in all"
  else
    row wrong disk "$free GB free at $place, $DISK_GB are needed for images, build and models"
  fi
  remedy "docker system df says what is used, docker system prune frees what no container uses;" \
    "or put Docker's data on another disk: https://docs.docker.com/engine/daemon/#daemon-data-directory"
}

prefer_fuller() {
  other=$(free_gb "$1")
  if is_number "$other" && [ "$other" -lt "${free:-0}" ]; then free=$other place=$1; fi
}

free_gb() { # of the file system that holds the path, or will
  path=$1
  until df -Pk "$path" >/dev/null 2>&1 || [ "$path" = / ] || [ "$path" = . ]; do path=$(dirname "$path"); done
  df -Pk "$path" 2>/dev/null | awk 'NR == 2 { # a device or a place may have spaces in its name: what is free stands before the per cent
    for (i = 2; i <= NF; i++) if ($i ~ /^[0-9]+%$/) { printf "%d", $(i - 1) * 1024 / 1e9; exit }
  }'
}

check_memory() {
  kb=$(awk '$1 == "MemTotal:" { print $2 }' "$ROOT/proc/meminfo" 2>/dev/null)
  is_number "$kb" || { row 'not checked' memory "/proc/meminfo does not say it" && return; }
  found=$(awk -v kb="$kb" 'BEGIN { printf "%.1f GB", kb / 1048576 }')
  if [ "$kb" -ge "$MEMORY_KB" ]; then row ok memory "$found"; return; fi
  row warning memory "$found, 8 GB are advised: loading the models may end in an out-of-memory kill"
  if [ -n "$wsl" ]; then remedy "Give WSL more: memory=12GB under [wsl2] in .wslconfig, then wsl --shutdown, both in Windows."
  else remedy "Add memory, or take a smaller model: SPILLWAY_ASR_MODEL=small in .env"; fi
}
