"""Structured logging: for people on a terminal, JSON elsewhere.

A message is a sentence; `task_id`, `device` and the like are bound once with `context(...)` and
stand in every line logged inside it, those of other libraries included.
"""

import logging
import sys

import structlog
from structlog.contextvars import bound_contextvars as context
from structlog.typing import Processor

from exporter.settings import LogSettings

#: Libraries whose lines say nothing that we do not record ourselves, some with text of the device,
#: which may hold secrets: never written, whatever the threshold.
_SILENCED = ("asyncssh", "napalm", "ncclient", "netmiko", "paramiko", "pyeapi", "urllib3")
#: Libraries that tell of each job: only their warnings are written.
_TALKATIVE = ("alembic", "apscheduler", "procrastinate")


def configure(settings: LogSettings) -> None:
    """Send this process's logs to standard error in the format of the settings."""
    is_for_people = settings.format == "console" or (
        settings.format == "auto" and sys.stderr.isatty()
    )
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if is_for_people
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    for name in _SILENCED:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def flush() -> None:
    """Write out what is buffered, before a process ends without the interpreter's farewell."""
    logging.shutdown()


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose calls take a sentence and keywords."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


__all__ = ["configure", "context", "flush", "get_logger"]
