"""The night's work on what is kept: the leader's."""

from collections.abc import Callable
from functools import partial

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from exporter.errors import ConfigBackupError
from exporter.logs import get_logger
from exporter.retention.archiving import archive
from exporter.retention.clearing import clear
from exporter.retention.runs import is_due, record
from exporter.retention.thinning import thin
from exporter.settings import HistorySettings, Settings

log = get_logger(__name__)

Duty = Callable[[Engine, HistorySettings], dict[str, int]]

DUTIES: dict[str, Duty] = {"archive": archive, "clear": clear, "thin": thin}


def retain_nightly(engine: Engine, settings: Settings) -> None:
    """Do each duty that is due; one that fails keeps no other from its turn."""
    first: Exception | None = None
    for name, duty in DUTIES.items():
        with engine.connect() as connection:
            if not is_due(connection, name, settings.time_zone):
                continue
        try:
            counts = record(engine, name, partial(duty, engine, settings.history))
        except (ConfigBackupError, OperationalError) as error:
            first = first or error
        else:
            log.info("a duty of the night is done", duty=name, **counts)
    if first is not None:
        raise first
