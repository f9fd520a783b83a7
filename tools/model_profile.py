"""The models that a local stack needs, brought before it starts, with the progress shown."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tools.stack_parts import DEFAULTS, ROOT


class PullFailed(Exception):
    """The models are not there; the pull has said why."""


def pull_models(settings: Mapping[str, str]) -> None:
    """The demo's small ones, and the Whisper model that the `SPILLWAY_*` settings name. Raises `PullFailed`."""
    model_dir = Path(settings.get("SPILLWAY_MODEL_DIR", DEFAULTS["SPILLWAY_MODEL_DIR"]))
    name = settings.get("SPILLWAY_ASR_MODEL", "")
    named = [name] if name and not name.startswith(("/", ".", "~")) else []  # a folder is there already
    command = [sys.executable, "-m", "worker.model_files", "pull", "--profile", "demo", "--model-dir", str(model_dir), *named]
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status == 130:
        raise KeyboardInterrupt
    if status != 0:
        raise PullFailed("the models could not be brought: the line above says why")
