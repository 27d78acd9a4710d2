"""What the leader checks by itself each night, once, whenever the daemon happens to run."""

from datetime import timedelta

from sqlalchemy import Connection, Engine, text

from exporter.integrity.configurations import verify_configurations
from exporter.integrity.numbers import fold_days, verify_numbers
from exporter.logs import get_logger
from exporter.settings import Settings

log = get_logger(__name__)

#: The hours (of the configured time zone) in which the checks begin.
_NIGHT = range(3, 6)
#: Statistics of this many days are recomputed: those that were not folded when last checked.
_DAYS = 3
#: Differences and damages that are written to the log one by one.
_SHOWN = 20


def check_nightly(engine: Engine, settings: Settings) -> bool:
    """Fold finished days, recompute the numbers and read a share of the configurations, if due.

    Due in the night, once; at any hour where the last night's check is missing.
    """
    with engine.begin() as connection:
        if not _is_due(connection, settings.time_zone):
            return False
        fold_days(connection)
        today = connection.execute(text("SELECT CURRENT_DATE")).scalar_one()
    differences = verify_numbers(engine, since=today - timedelta(days=_DAYS))
    for difference in differences[:_SHOWN]:
        log.error("a number is not what the executions say", **vars(difference))
    share = 1 / settings.integrity.configurations_days
    for damage in verify_configurations(engine, settings.git, share=share).damages[:_SHOWN]:
        log.error("a stored configuration was damaged", **vars(damage))
    record_check(engine, len(differences))
    return True


def record_check(engine: Engine, differences: int) -> None:
    """Write what the metric says."""
    with engine.begin() as connection:
        connection.execute(
            text("""
                UPDATE installation SET integrity_checked_at = now(),
                    integrity_differences = :differences
            """),
            {"differences": differences},
        )


def _is_due(connection: Connection, time_zone: str) -> bool:
    return bool(
        connection.scalar(
            text("""
                SELECT integrity_checked_at IS NULL
                    OR integrity_checked_at < now() - interval '26 hours'
                    OR (integrity_checked_at < now() - interval '20 hours'
                        AND extract(hour FROM now() AT TIME ZONE :time_zone) = ANY(:night))
                FROM installation
            """),
            {"time_zone": time_zone, "night": list(_NIGHT)},
        )
    )
