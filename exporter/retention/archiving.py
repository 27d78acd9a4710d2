"""Months by their age: from the log into the archive, out of it into a file, and away.

Every step looks at where each month is and goes on from there, so it may be killed at any moment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

from sqlalchemy import Connection, Engine, text

from exporter.database.history import moving_months
from exporter.database.months import ARCHIVE, LOG, Month, drop_month, find_months, move_month
from exporter.logs import get_logger
from exporter.retention.exporting import ensure_exported, require_pyarrow
from exporter.settings import HistorySettings

log = get_logger(__name__)

#: The present is believed when executions ended on so many days shortly before it: a clock that
#: jumped ahead would else empty the archive.
_DAYS_OF_PROOF = 3
_PROOF_LASTS = timedelta(days=7)


class Action(StrEnum):
    """What is to be done with a month."""

    MOVE = "move"
    DROP = "drop"
    EXPORT_AND_DROP = "export and drop"


@dataclass(frozen=True)
class Step:
    """One month's way."""

    month: str
    action: Action


def plan(months: Sequence[Month], now: datetime, settings: HistorySettings) -> list[Step]:
    """What is to be done with which month, oldest first.

    One that was left half-way is finished, whatever its age.
    """
    hot_from = now - timedelta(days=settings.hot_days)
    kept_from = now - timedelta(days=settings.archive_days)
    last = Action.DROP if settings.export_directory is None else Action.EXPORT_AND_DROP
    steps = []
    for month in months:
        is_half_way = month.parent is None or month.is_leaving
        if month.ends <= kept_from:
            steps.append(Step(month.name, last))
        elif is_half_way or (month.parent == LOG and month.ends <= hot_from):
            steps.append(Step(month.name, Action.MOVE))
    return steps


def plan_archive(connection: Connection, settings: HistorySettings) -> list[Step]:
    """What `archive` would do now."""
    return plan(find_months(connection), _present(connection), settings)


def archive(engine: Engine, settings: HistorySettings) -> dict[str, int]:
    """Take every month where its age wants it; how many were moved, exported and dropped.

    Nothing is dropped that was not exported and read back where a directory for exports is set.
    Raises DatabaseProblem and ExportProblem; the next call goes on from there.
    """
    counts = {"moved": 0, "exported": 0, "dropped": 0}
    with engine.connect() as connection:
        steps = plan_archive(connection, settings)
    if any(step.action is Action.EXPORT_AND_DROP for step in steps):
        require_pyarrow()
    for step in steps:
        log.info("a month goes its way", month=step.month, action=str(step.action))
        if step.action is Action.MOVE:
            with moving_months(engine) as connection:
                move_month(connection, step.month, ARCHIVE)
            counts["moved"] += 1
            continue
        if settings.export_directory is not None:
            counts["exported"] += ensure_exported(engine, step.month, settings.export_directory)
        with moving_months(engine) as connection:
            drop_month(connection, step.month)
            connection.execute(_DROPPED, {"name": step.month})
        counts["dropped"] += 1
    return counts


_DROPPED = text("UPDATE exported_months SET dropped_at = now() WHERE name = :name")


def _present(connection: Connection) -> datetime:
    """The database's time, unless executions say that its clock may have jumped."""
    return believed_present(
        connection.execute(text("SELECT now()")).scalar_one(),
        connection.scalars(
            text("SELECT DISTINCT day FROM daily_statistics ORDER BY day DESC LIMIT :number"),
            {"number": _DAYS_OF_PROOF},
        ).all(),
    )


def believed_present(now: datetime, last_days: Sequence[date]) -> datetime:
    """The present by whose age months go; `last_days` are the newest on which executions ended.

    Without any nothing is known against the clock.
    """
    if not last_days:
        return now
    proven = datetime.combine(min(last_days), datetime.min.time(), UTC) + _PROOF_LASTS
    return min(now, proven)
