"""A worker process for every GPU of the box: `python -m worker`."""

import os
import sys
from collections.abc import Callable, Mapping

from core import log
from core.errors import SettingsError
from core.settings import Settings, variable
from worker.crew import Crew
from worker.visible_gpus import visible_gpus_elsewhere

COMMAND = (sys.executable, "-m", "worker.celery_app")


def main() -> int:
    try:
        settings = Settings.from_environment()
    except SettingsError as error:
        sys.exit(f"spillway worker: {error}")
    log.configure("worker", level=settings.log_level, form=settings.log_format)
    return Crew(COMMAND, environments(settings, os.environ, visible_gpus_elsewhere)).run()


def environments(settings: Settings, inherited: Mapping[str, str], count_gpus: Callable[[], int]) -> list[dict[str, str]]:
    """Of one process per GPU. Without a GPU there is one all the same, whose checks say what is wrong; and a GPU named by its
    index is meant alone."""
    is_one = settings.device == "cpu" or "device_index" in settings.model_fields_set
    gpus = 1 if is_one else count_gpus()
    if gpus <= 1:
        return [dict(inherited)]
    return [{**inherited, **_place(settings, index)} for index in range(gpus)]


def _place(settings: Settings, index: int) -> dict[str, str]:
    slot = {variable("worker_slot"): f"{settings.worker_slot}-{index}"} if settings.worker_slot else {}
    return {variable("device_index"): str(index), **slot}


if __name__ == "__main__":
    sys.exit(main())
