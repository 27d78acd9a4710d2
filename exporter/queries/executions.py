"""Questions about executions and backups, those that wait or run and those that ended."""

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, text

from exporter.errors import UnknownBackup
from exporter.models import ENDED_STATUSES
from exporter.queries.rows import Row, all_rows, first_row

_COLUMNS = """
    id, task_id, device_id, schedule_id, config_id, status, reason, execution_time, error_message,
    error_details, queued_at, started_at, completed_at, config_size, git_commit_id, extra_info,
    retry_count, site, platform, zone, trigger, created_at
"""

#: Hot log and archive as one, for what may be older than the hot period.
ALL_ENDED = f"""
    (SELECT {_COLUMNS} FROM backup_execution_logs
     UNION ALL SELECT {_COLUMNS} FROM backup_execution_history)
"""


def recent_executions(
    connection: Connection,
    *,
    limit: int,
    status: str | None = None,
    device: str | None = None,
    reason: str | None = None,
    task_id: uuid.UUID | None = None,
) -> list[Row]:
    """Ended executions, newest first, of the hot period."""
    conditions, values = ["TRUE"], dict[str, Any](limit=limit)
    for name, column, value in (
        ("status", "l.status", status),
        ("reason", "l.reason", reason),
        ("device", "d.name", device),
    ):
        if value is not None:
            conditions.append(f"{column} = :{name}")
            values[name] = value
    if task_id is not None:
        # A backup's executions are its own and those that it joined.
        conditions.append(
            "l.id IN (SELECT execution_id FROM backup_devices WHERE task_id = :task_id)"
        )
        values["task_id"] = task_id
    return all_rows(
        connection,
        f"""
                SELECT l.id, l.created_at, d.name AS device, l.site, l.platform, l.trigger,
                    s.name AS schedule, l.status, l.reason, l.execution_time, l.retry_count,
                    l.config_size, l.error_message, l.started_at, l.completed_at, l.task_id,
                    l.git_commit_id
                FROM backup_execution_logs AS l
                JOIN devices AS d ON d.id = l.device_id
                LEFT JOIN backup_schedules AS s ON s.id = l.schedule_id
                WHERE {" AND ".join(conditions)}
                ORDER BY l.created_at DESC, l.id DESC LIMIT :limit
            """,
        **values,
    )


def open_executions(connection: Connection, *, limit: int) -> list[Row]:
    """What waits or runs now: running first, then by when it is due."""
    return all_rows(
        connection,
        """
                SELECT e.id, e.status, d.name AS device, e.site, e.platform, e.trigger,
                    e.queued_at, e.not_before, e.try_started_at, e.deadline_at,
                    jsonb_array_length(e.failed_tries) AS retry_count, e.task_id
                FROM open_executions AS e JOIN devices AS d ON d.id = e.device_id
                ORDER BY e.status DESC, e.not_before, e.id LIMIT :limit
            """,
        limit=limit,
    )


def execution(connection: Connection, execution_id: uuid.UUID) -> Row | None:
    """Every column of one ended execution, hot or archived, with the names of what it refers to."""
    return first_row(
        connection,
        f"""
                SELECT d.name AS device, d.address, s.name AS schedule, l.*
                FROM {ALL_ENDED} AS l
                JOIN devices AS d ON d.id = l.device_id
                LEFT JOIN backup_schedules AS s ON s.id = l.schedule_id
                WHERE l.id = :id
            """,
        id=execution_id,
    )


def backup_counts(connection: Connection, task_id: uuid.UUID) -> dict[str, int]:
    """How many of a backup's executions, joined ones included, have each status.

    Raises UnknownBackup.
    """
    backup = connection.execute(
        text("SELECT * FROM backups WHERE task_id = :task_id"), {"task_id": task_id}
    ).first()
    if backup is None:
        raise UnknownBackup(f"no backup has the task_id {task_id}")
    if backup.device_count is not None:
        # Ended and counted: the list of its devices may be gone.
        ended = {status: getattr(backup, f"{status}_count") for status in ENDED_STATUSES}
        return {"queued": 0, "running": 0, **ended}
    rows = connection.execute(
        text(f"""
            SELECT coalesce(o.status, l.status) AS status, count(*) AS count
            FROM backup_devices AS b
            LEFT JOIN open_executions AS o ON o.id = b.execution_id
            LEFT JOIN {ALL_ENDED} AS l ON l.id = b.execution_id AND l.created_at >= :created_at
            WHERE b.task_id = :task_id
            GROUP BY 1
        """),
        {"task_id": task_id, "created_at": backup.created_at},
    )
    counts = dict.fromkeys(("queued", "running", *ENDED_STATUSES), 0)
    # An execution between both tables has ended within this statement; the next look finds it.
    for status, count in rows:
        counts[status or "running"] += count
    return counts


def waiting_executions_of_retired_devices(connection: Connection) -> Sequence[uuid.UUID]:
    """What waits for a device that left the inventory: it is to be cancelled."""
    return connection.scalars(
        text("""
            SELECT e.id FROM open_executions AS e JOIN devices AS d ON d.id = e.device_id
            WHERE d.retired_at IS NOT NULL
        """)
    ).all()
