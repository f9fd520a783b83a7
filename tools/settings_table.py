"""`python -m tools.settings_table [--env]`: the README's table of settings, or `.env.example`, from core/settings.py."""

import sys
from collections.abc import Iterator

from pydantic.fields import FieldInfo

from core.settings import Settings, variable


def markdown() -> str:
    rows = (f"| `{name}` | {default_text(field, 'unset')} | {_cell(field)} |" for name, field in _settings())
    return "\n".join(["| variable | default | what it is |", "| --- | --- | --- |", *rows]) + "\n"


def env_example() -> str:
    """Every setting commented out at its default, so that a copy changes nothing until a line is edited."""
    lines = (f"# {field.description}\n#{name}={default_text(field)}\n" for name, field in _settings())
    return (
        "# Spillway's settings, each at its default: variables of the environment that its processes start in.\n"
        "# In a copy named .env uncomment what differs, then: set -a; . ./.env; set +a; make up\n"
        "# SPILLWAY_X_FILE in place of SPILLWAY_X names a file that holds the value, as containers are handed secrets.\n"
        "# Made by `python -m tools.settings_table --env`.\n\n" + "\n".join(lines)
    )


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
