"""Structured logs: events with fields, never transcript text or secrets."""

import logging
import sys
from typing import Any, Literal

import structlog

Logger = Any  # structlog's bound loggers are typed at run time only
_processors: list[Any] = []  # changed in place: a logger keeps the list that it was first used with


def configure(process: str, *, level: str, form: Literal["json", "console"]) -> None:
    """Sends our events and the libraries' warnings to standard error, each with the process' name."""
    renderer: Any = structlog.processors.JSONRenderer() if form == "json" else structlog.dev.ConsoleRenderer(colors=False)
    shared: list[Any] = [
        lambda _logger, _method, event: {"process": process, **event},  # not a context variable: threads start with none
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("spillway").setLevel(level.upper())
    _processors[:] = [*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter]
    structlog.configure(
        processors=_processors,
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def logger(name: str) -> Logger:
    return structlog.stdlib.get_logger(f"spillway.{name}")
