# The driver, the cards, and the way of the cards into containers. Read by ../../preflight.
# shellcheck shell=sh disable=SC2034,SC2154 # the parts share their findings
# CUDA 12.x by minor version compatibility; CUDA 11.8 asks for less, 520.61.05. NVIDIA, CUDA Toolkit Release Notes, driver versions:
# docs.nvidia.com/cuda/cuda-toolkit-release-notes, docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
DRIVER_LEAST=525.60.13
# ctranslate2 4.4.0 has code for 6.0 to 8.6 and PTX for newer ones (its sm_53 runs on no x86 card), torch 2.0.0+cu118 ends at 9.0.
CAPABILITY_LEAST=6.0
CAPABILITY_TOO_NEW=10.0
LARGE_MODEL_MIB=5632 # 5.5 GB: the least card for large-v2 is one of 6 GB, whose driver keeps some
TOOLKIT_PAGE=https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html
cards='' usable=0

ask_cards() { # one line a card: driver, compute capability, MIG, MiB in all, MiB free, name; the name last, for it may hold commas
  fields=driver_version,compute_cap,mig.mode.current,memory.total,memory.free,name
  said=$(bounded "$1" --query-gpu=$fields --format=csv,noheader,nounits 2>&1)
  [ $? -ne 124 ] || return 124
  case $said in *"not a valid field"*) # the 470 series has no compute_cap
    said=$(bounded "$1" --query-gpu=driver_version,memory.total,memory.free,name --format=csv,noheader,nounits 2>&1)
    [ $? -ne 124 ] || return 124
    said=$(printf '%s\n' "$said" | awk '{ sub(/, /, ", unknown, unknown, "); print }') ;;
  esac
  cards=$(printf '%s\n' "$said" | awk '/^[0-9]+[.][0-9.]+, /') # warnings may stand between them
}

check_driver() {
  smi=nvidia-smi
  there nvidia-smi || smi=$ROOT/usr/lib/wsl/lib/nvidia-smi
  if ! there "$smi"; then
    row wrong driver "no nvidia-smi: the NVIDIA driver is not installed"
    install_driver
    return
  fi
  if ! ask_cards "$smi"; then
    row wrong driver "nvidia-smi does not answer within $PATIENCE_S s"
    remedy "sudo reboot; if it stays so, sudo dmesg | grep -i nvrm says why" \
      "several cards that merely wake up slowly: sudo nvidia-smi -pm 1, or PREFLIGHT_PATIENCE_S=30 ./preflight"
  elif [ -z "$cards" ]; then
    explain_no_cards
  else
    driver=${cards%%, *}
    if at_least "$driver" "$DRIVER_LEAST"; then row ok driver "$driver"; return; fi
    row wrong driver "$driver, $DRIVER_LEAST is the least for CUDA 12"
    install_driver
  fi
}

install_driver() {
  if [ -n "$wsl" ]; then
    remedy "Install NVIDIA's current driver in Windows, never inside WSL, then: wsl --shutdown"
  else
    remedy "Ubuntu: sudo apt-get install -y ubuntu-drivers-common && sudo ubuntu-drivers install && sudo reboot" \
      "Debian, with contrib and non-free in its sources: sudo apt-get install -y nvidia-driver && sudo reboot" \
      "others: https://docs.nvidia.com/datacenter/tesla/driver-installation-guide/"
  fi
  remedy "no NVIDIA GPU here: ./preflight --cpu"
}

explain_no_cards() {
  case $said in
    *"communicate with the NVIDIA driver"*)
      row wrong driver "installed, but its kernel module is not loaded"
      remedy "sudo reboot; if it stays so, build the module for this kernel:" \
        "sudo apt-get install -y linux-headers-\$(uname -r) && sudo dkms autoinstall && sudo reboot" \
        "with Secure Boot on, enrol the module's key first (mokutil --sb-state says whether it is on); others: reinstall the driver"
      ;;
    *"version mismatch"*)
      row wrong driver "updated, but the old one is still loaded"
      remedy "sudo reboot"
      ;;
    *"No devices were found"*)
      row wrong driver "runs, and finds no NVIDIA GPU"
      remedy "lspci | grep -i nvidia says whether the machine sees a card; none: ./preflight --cpu"
      ;;
    *)
      row wrong driver "nvidia-smi: $(complaint "$said")"
      remedy "sudo reboot; if it stays so, reinstall the driver:"
      install_driver
      ;;
  esac
}

check_gpus() {
  [ -n "$cards" ] || { row 'not checked' gpu "needs the driver" && return; }
  usable=$(printf '%s\n' "$cards" | awk -F ', ' -v least=$CAPABILITY_LEAST -v new=$CAPABILITY_TOO_NEW \
    '$2 !~ /^[0-9]/ || ($2 + 0 >= least + 0 && $2 + 0 < new + 0) { n++ } END { print n + 0 }')
  index=0
  while IFS= read -r card; do
    check_gpu "$card"
    index=$((index + 1))
  done <<EOF
$cards
EOF
}

check_gpu() {
  rest=${1#*, }
  capability=${rest%%, *} rest=${rest#*, }
  mig=${rest%%, *} rest=${rest#*, }
  total_mib=${rest%%, *} rest=${rest#*, }
  free_mib=${rest%%, *}
  found="$index: ${rest#*, }, compute capability $capability, $(gibibytes "$total_mib"), $(gibibytes "$free_mib") free"
  case $capability in
    [0-9]*) ;;
    *)
      row warning gpu "$found"
      remedy "nvidia-smi does not tell this card's generation; the doctor in the image will."
      return
      ;;
  esac
  if at_least "$capability" "$CAPABILITY_TOO_NEW"; then
    refuse_gpu "Blackwell or newer: torch 2.0.0 has no code for it, and no setting changes that"
  elif ! at_least "$capability" "$CAPABILITY_LEAST"; then
    refuse_gpu "older than Pascal: ctranslate2 4.4.0 has no code for it"
  else
    judge_gpu_memory
  fi
}

gibibytes() { if is_number "$1"; then awk -v mib="$1" 'BEGIN { printf "%.1f GiB", mib / 1024 }'; else printf 'unknown memory'; fi; }

refuse_gpu() {
  if [ "$usable" -gt 0 ]; then
    row warning gpu "$found: $1"
    remedy "Leave it out: name the other cards under device_ids in docker-compose.override.yml, in place of count."
  else
    row wrong gpu "$found: $1"
    remedy "Use a card from Pascal to Hopper (GTX 10 to RTX 40, P100, V100, T4, A10, A100, L4, H100), or run on the CPU: ./preflight --cpu"
  fi
}

judge_gpu_memory() {
  if [ "$mig" = Enabled ]; then
    row warning gpu "$found, MIG is on"
    remedy "A worker sees one slice, not the card: give it one of at least 5.5 GB. The doctor in the image measures it."
  elif is_number "$total_mib" && [ "$total_mib" -lt "$LARGE_MODEL_MIB" ] && ! small_model_chosen; then
    row warning gpu "$found: large-v2 does not fit"
    remedy "Take a smaller model: SPILLWAY_ASR_MODEL=small in .env"
  elif is_number "$free_mib" && [ "$free_mib" -lt "$LARGE_MODEL_MIB" ] && ! small_model_chosen && ! runs_here; then
    row warning gpu "$found: other programs hold what large-v2 needs"
    remedy "nvidia-smi names them: end one, or take a smaller model: SPILLWAY_ASR_MODEL=small in .env"
  else
    row ok gpu "$found"
  fi
}

small_model_chosen() { case $(setting SPILLWAY_ASR_MODEL) in tiny* | base* | small*) ;; *) return 1 ;; esac; }

runs_here() { case $ours in *running*) ;; *) return 1 ;; esac; }

check_toolkit() {
  if has '"nvidia":{'; then
    row ok toolkit "Docker has the nvidia runtime"
  elif is_desktop; then
    judge_desktop
  elif has nvidia.com/gpu; then # moby PR 50228
    row warning toolkit "Docker knows the GPU by CDI only, which its newest engines alone use for a GPU reservation"
    remedy "If the worker's start says 'could not select device driver':"
    configure_toolkit
  elif ! there nvidia-ctk; then
    row wrong toolkit "nvidia-container-toolkit is not installed: no container gets the GPU"
    remedy "Add NVIDIA's packages as this page says: $TOOLKIT_PAGE" \
      "then: sudo apt-get install -y nvidia-container-toolkit (others: dnf or zypper, the same page)"
    configure_toolkit
  elif [ -z "$engine" ]; then
    row 'not checked' toolkit "installed; whether Docker uses it, Docker must say"
  else
    row wrong toolkit "installed, but Docker is not told of it"
    configure_toolkit
  fi
}

judge_desktop() { # it brings the toolkit on Windows, and has no way to the GPU on Linux
  if [ -n "$wsl" ]; then
    row warning toolkit "Docker Desktop does not list the nvidia runtime"
    remedy "If the worker's start fails: update Docker Desktop and, in Windows, NVIDIA's driver."
  else
    row wrong toolkit "Docker Desktop on Linux gives no GPU to containers"
    remedy "Use Docker Engine in its place: https://docs.docker.com/engine/install/"
  fi
}

configure_toolkit() {
  if [ -n "$rootless" ]; then
    remedy "nvidia-ctk runtime configure --runtime=docker --config=\"\$HOME/.config/docker/daemon.json\"" \
      "sudo nvidia-ctk config --set nvidia-container-cli.no-cgroups --in-place" \
      "systemctl --user restart docker"
  else
    remedy "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
  fi
}
