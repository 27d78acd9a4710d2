"""Rows that are deleted, and columns that are emptied, by their age: in batches, each bounded."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, text

from exporter.retention.runs import done_until, set_done_until
from exporter.settings import HistorySettings

_DUTY = "clear"
_BATCH = 5_000

_EVENTS = """
    DELETE FROM events WHERE id IN (
        SELECT id FROM events WHERE created_at < now() - make_interval(days => :days)
        ORDER BY created_at LIMIT :batch)
"""
_ENDED = "b.ended_at IS NOT NULL AND b.created_at < now() - make_interval(days => :days)"
_BACKUP_DEVICES = f"""
    DELETE FROM backup_devices WHERE (task_id, device_id) IN (
        SELECT d.task_id, d.device_id FROM backups AS b JOIN backup_devices AS d USING (task_id)
        WHERE {_ENDED} AND (b.device_count IS NOT NULL OR NOT :is_counted) LIMIT :batch)
"""
# Its devices are gone before, so that the cascade has little to do.
_BACKUPS = f"""
    DELETE FROM backups WHERE task_id IN (
        SELECT b.task_id FROM backups AS b WHERE {_ENDED} AND NOT EXISTS (
            SELECT FROM backup_devices AS d WHERE d.task_id = b.task_id)
        ORDER BY b.created_at LIMIT :batch)
"""

#: What an emptied column holds. The counters' check needs how long an execution waited.
_EMPTIED = {
    "error_details": ("NULL", "error_details IS NOT NULL"),
    "extra_info": (
        "jsonb_strip_nulls(jsonb_build_object('waited_seconds', extra_info -> 'waited_seconds'))",
        "extra_info - 'waited_seconds' <> '{}'",
    ),
}


def clear(engine: Engine, settings: HistorySettings) -> dict[str, int]:
    """Delete and empty what is old enough; how many rows of each kind."""
    devices_days = min(settings.backup_devices_days, settings.backups_days)
    backups_days = settings.backups_days
    return {
        "events": _in_batches(engine, _EVENTS, days=settings.events_days),
        "backup_devices": sum(
            _in_batches(engine, _BACKUP_DEVICES, days=days, is_counted=is_counted)
            for days, is_counted in ((devices_days, True), (backups_days, False))
        ),
        "backups": _in_batches(engine, _BACKUPS, days=backups_days),
        "error_details": _empty(engine, "error_details", days=settings.error_details_days),
        "extra_info": _empty(engine, "extra_info", days=settings.extra_info_days),
    }


def _in_batches(engine: Engine, statement: str, **values: int) -> int:
    total = 0
    while True:
        with engine.begin() as connection:
            count = connection.execute(text(statement), {**values, "batch": _BATCH}).rowcount
        total += count
        if count < _BATCH:
            return total


def _empty(engine: Engine, column: str, *, days: int) -> int:
    """Empty the column in all executions that are old enough and were not when it last ran."""
    total = 0
    while True:
        with engine.begin() as connection:
            since = done_until(connection, _DUTY, column)
            until = _end_of_batch(connection, since, days)
            if until is None:
                return total
            total += _empty_between(connection, column, since, until)
            set_done_until(connection, _DUTY, column, until)


def _end_of_batch(connection: Connection, since: datetime | None, days: int) -> datetime | None:
    """Where the next batch of executions ends; None: nothing more is old enough."""
    batch = """
        SELECT created_at FROM {table} WHERE created_at < now() - make_interval(days => :days)
            AND (CAST(:since AS timestamptz) IS NULL OR created_at > :since)
        ORDER BY created_at LIMIT :batch
    """
    until: datetime | None = connection.scalar(
        text(f"""
            SELECT max(created_at) FROM (
                ({batch.format(table="backup_execution_history")})
                UNION ALL ({batch.format(table="backup_execution_logs")})
                ORDER BY created_at LIMIT :batch) AS first
        """),
        {"since": since, "days": days, "batch": _BATCH},
    )
    return until


def _empty_between(
    connection: Connection, column: str, since: datetime | None, until: datetime
) -> int:
    value, is_full = _EMPTIED[column]
    values: dict[str, Any] = {"since": since, "until": until}
    return sum(
        connection.execute(
            text(f"""
                UPDATE {table} SET {column} = {value}
                WHERE created_at <= :until AND {is_full}
                    AND (CAST(:since AS timestamptz) IS NULL OR created_at > :since)
            """),
            values,
        ).rowcount
        for table in ("backup_execution_history", "backup_execution_logs")
    )
