"""gunicorn's configuration: one process of threads, so that limits and places are counted in one place."""

from dataclasses import replace
from typing import Any

from gunicorn.glogging import Logger

from core import log
from core.errors import SettingsError
from service.collaborators import give
from service.gunicorn_worker import Worker
from service.wsgi import checked_settings

try:
    _settings = checked_settings()
except SettingsError as error:
    raise SystemExit(f"spillway service: {error}") from None


class Log(Logger):  # type: ignore[misc]
    """gunicorn's own lines go out like ours, from its first one on."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        log.configure("service", level=_settings.log_level, form=_settings.log_format)


bind = f"[{_settings.host}]:{_settings.port}" if ":" in _settings.host else f"{_settings.host}:{_settings.port}"
worker_class = Worker
workers = 1
threads = _settings.service_threads
worker_connections = 1000
graceful_timeout = 30  # s for uploads under way; event streams end by themselves within a second
keepalive = 15  # s
control_socket_disable = True
accesslog = None  # a line per request is ours to write, with the job's id
logger_class = Log
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {"gunicorn.error": {"level": "INFO", "handlers": [], "propagate": True}},
}


def post_worker_init(worker: Any) -> None:
    """Streams hear through this that the worker stops: they would hold it up for the whole grace period otherwise."""
    app = worker.wsgi
    give(app, replace(app.extensions["spillway"], is_stopping=lambda: not worker.alive))
