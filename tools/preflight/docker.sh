# Docker's engine and Compose. Read by ../../preflight.
# shellcheck shell=sh disable=SC2034,SC2154 # the parts share their findings
# The images' glibc, 2.35, makes threads by clone3, which older engines refuse in a way that it cannot fall back from (moby PR 42681).
ENGINE_LEAST=20.10.10
# `docker compose` itself: conditions on a service that ended well and GPU reservations are in every 2.x.
COMPOSE_LEAST=2.0.0
info='' engine='' rootless='' elsewhere='' ours=''

has() { case $info in *"$1"*) ;; *) return 1 ;; esac; }

info_field() { # the string under a key of what `docker info` said
  printf '%s\n' "$info" | awk -v key="\"$1\":\"" '(at = index($0, key)) { $0 = substr($0, at + length(key)); sub(/".*/, ""); print; exit }'
}

check_docker() {
  if ! there docker; then
    row wrong docker "not installed"
    remedy "https://docs.docker.com/engine/install/ : the packages there bring Compose too"
    if [ -n "$wsl" ]; then remedy "or Docker Desktop with this distribution on: Settings, Resources, WSL integration"; fi
    return
  fi
  info=$(bounded docker info --format '{{json .}}' 2>&1)
  if [ $? -eq 124 ]; then
    row wrong docker "docker info does not answer within $PATIENCE_S s"
    remedy "sudo systemctl restart docker" "a slow machine: PREFLIGHT_PATIENCE_S=30 ./preflight"
    return
  fi
  engine=$(info_field ServerVersion)
  if [ -n "$engine" ]; then judge_engine; else explain_silence; fi
}

is_desktop() { has '"OperatingSystem":"Docker Desktop'; }

judge_engine() {
  notes=''
  if has name=rootless; then rootless=yes notes=", rootless"; fi
  if is_desktop; then elsewhere="Docker Desktop's virtual machine" notes="$notes, Docker Desktop"; fi
  case ${DOCKER_HOST:-} in tcp://* | ssh://*) elsewhere="another machine, $DOCKER_HOST" notes="$notes, at $DOCKER_HOST" ;; esac
  ours=$(bounded docker ps -a --filter "label=com.docker.compose.project.working_dir=$HERE" --format '{{.State}}' 2>/dev/null)
  if ! at_least "$engine" "$ENGINE_LEAST"; then
    row wrong docker "engine $engine$notes, $ENGINE_LEAST is the least: under older ones the images cannot start a thread"
    remedy "sudo apt-get update && sudo apt-get install --only-upgrade docker-ce docker-ce-cli containerd.io (Ubuntu's own: docker.io)" \
      "others: https://docs.docker.com/engine/install/"
  elif [ -n "${DOCKER_HOST:-}" ] && [ -n "$elsewhere" ]; then
    row warning docker "engine $engine$notes"
    remedy "The other lines are about this machine, not about that one: run ./preflight there, or unset DOCKER_HOST."
  else
    row ok docker "engine $engine$notes"
  fi
}

explain_silence() {
  case $info in
    *"permission denied"*)
      row wrong docker "this user may not talk to Docker"
      remedy "sudo usermod -aG docker \"\$USER\", then log out and in again"
      ;;
    *"in this WSL"*)
      row wrong docker "Docker Desktop is not on for this distribution"
      remedy "In Docker Desktop: Settings, Resources, WSL integration: turn this distribution on."
      ;;
    *buildahVersion* | *[Pp]odman*)
      row wrong docker "the docker command here is Podman's"
      remedy "The compose files are written for Docker: https://docs.docker.com/engine/install/"
      ;;
    *"Cannot connect"* | *"daemon running"*)
      row wrong docker "the engine does not run${DOCKER_HOST:+ at $DOCKER_HOST}"
      remedy "sudo systemctl start docker (at every boot: sudo systemctl enable docker); Docker Desktop: start it"
      if [ -n "${DOCKER_HOST:-}" ]; then remedy "or unset DOCKER_HOST, if this machine's engine is meant"; fi
      ;;
    *)
      row wrong docker "docker info: $(complaint "$info")"
      remedy "sudo systemctl status docker and sudo journalctl -u docker say why"
      ;;
  esac
}

check_compose() {
  there docker || { row 'not checked' compose "comes with Docker" && return; }
  version=$(bounded docker compose version --short 2>/dev/null) || version=''
  case $version in
    v[0-9]* | [0-9]*)
      if at_least "$version" "$COMPOSE_LEAST"; then row ok compose "${version#v}"; return; fi
      row wrong compose "${version#v}, $COMPOSE_LEAST is the least"
      ;;
    *)
      if there docker-compose; then row wrong compose "only docker-compose is there, docker compose is not: the files need Compose v2"
      else row wrong compose "not installed"; fi
      ;;
  esac
  remedy "sudo apt-get install -y docker-compose-plugin (Docker's packages) or docker-compose-v2 (Ubuntu's own)" \
    "others: https://docs.docker.com/compose/install/linux/"
}
