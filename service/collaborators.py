"""What the routes work with: built by the composition root, kept by the application, asked for by the views."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from flask import Flask, current_app

from core.api_keys import ApiKeys
from core.figures import Figures
from core.file_store import FileStore
from core.job_store import JobStore
from core.media import Ffmpeg
from core.outbox import Outbox
from core.request_rates import RequestRates
from core.settings import Settings
from service.bursts import BurstAccounts
from service.places import Places


@dataclass(frozen=True)
class Collaborators:
    settings: Settings
    keys: ApiKeys | None  # None in open access
    rates: RequestRates
    jobs: JobStore
    figures: Figures
    bursts: BurstAccounts
    outbox: Outbox
    files: FileStore
    ffmpeg: Ffmpeg
    wake: Callable[[], bool]  # whether the wake-up was sent
    long_requests: Places  # uploads and event streams
    event_streams: Places
    is_stopping: Callable[[], bool] = lambda: False


def give(app: Flask, collaborators: Collaborators) -> None:
    app.extensions["spillway"] = collaborators


def given() -> Collaborators:
    """The collaborators of the application that serves this request."""
    return cast(Collaborators, current_app.extensions["spillway"])
