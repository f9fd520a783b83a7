"""The first steps of every long-lived process of ours: its settings, then its log."""

import sys
from collections.abc import Collection

from core import log
from core.errors import SettingsError
from core.settings import Settings


def begin(process: str, *, without: Collection[str] = ()) -> Settings:
    """Ends the process, with what is wrong and its name in one line, when a setting is wrong; those named by `without` are not read."""
    try:
        settings = Settings.from_environment(without=without)
    except SettingsError as error:
        sys.exit(f"spillway {process}: {error}")
    log.configure(process, level=settings.log_level, form=settings.log_format)
    return settings
