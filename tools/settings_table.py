"""`python -m tools.settings_table [--env]`: the README's table of settings, or `.env.example`, from core/settings.py."""

import sys
from collections.abc import Iterator

from pydantic.fields import FieldInfo

from core.settings import Settings, field_name, variable

# Fixed by docker-compose.yml or the images: compose does not pass these on.
COMPOSE_DECIDES = (
    "redis_url", "host", "port", "access", "api_key_secret", "first_api_key", "webhook_secret",
    "file_store_dir", "model_dir", "ffmpeg", "gpu_stack",
)  # fmt: skip


# What only compose reads, in the form of the rest.
COMPOSE_OWN = """\
# Compose: the address that the service is published on; put a proxy with TLS before any that others reach.
#SPILLWAY_PUBLISH_ADDRESS=127.0.0.1

# Compose: the port that the service is published on.
#SPILLWAY_PUBLISH_PORT=8000

# Compose on a machine without a GPU, so that every command leaves the GPUs out.
#COMPOSE_FILE=docker-compose.yml:docker-compose.cpu.yml

"""


def markdown() -> str:
    rows = (f"| `{name}` | {default_text(field, 'unset')} | {_cell(field)} |" for name, field in _settings())
    return "\n".join(["| variable | default | what it is |", "| --- | --- | --- |", *rows]) + "\n"


def env_example() -> str:
    """Every setting commented out at its default, so that a copy changes nothing until a line is edited."""
    lines = (f"# {field.description}{_fixed(field_name(name))}\n#{name}={default_text(field)}\n" for name, field in _settings())
    return (
        "# Spillway's settings, each at its default: variables of the environment that its processes start in.\n"
        "# In a copy named .env uncomment what differs. Compose reads it by itself; in a checkout: set -a; . ./.env; set +a; make up\n"
        "# SPILLWAY_X_FILE in place of SPILLWAY_X names a file that holds the value, as containers are handed secrets.\n"
        "# Made by `python -m tools.settings_table --env`.\n\n" + COMPOSE_OWN + "\n".join(lines)
    )


def _fixed(field: str) -> str:
    return " (Not with compose, which fixes it.)" if field in COMPOSE_DECIDES else ""


def default_text(field: FieldInfo, unset: str = "") -> str:
    """As one writes it in the variable; `unset` if there is none, or only the process knows it."""
    default = field.default
    if field.default_factory is not None or default is None or default == ():
        return unset
    return f"`{_written(default)}`" if unset else _written(default)


def _written(default: object) -> str:
    match default:
        case bool():
            return str(default).lower()
        case tuple():
            return ",".join(default)
        case float():
            return f"{default:g}"
        case _:
            return str(default)


def _settings() -> Iterator[tuple[str, FieldInfo]]:
    return ((variable(name), field) for name, field in Settings.model_fields.items())


def _cell(field: FieldInfo) -> str:
    return (field.description or "").replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(env_example() if sys.argv[1:] == ["--env"] else markdown())
