"""Questions about backups."""

import uuid

from sqlalchemy import Connection, text

from exporter.queries.executions import ALL_ENDED, backup_counts
from exporter.queries.rows import Row, all_rows, first_row

_COLUMNS = """b.task_id, b.trigger, b.requested_by, b.comment, b.schedule_id, s.name AS schedule,
    b.scheduled_at, b.created_at, b.ended_at"""


def list_backups(connection: Connection, *, limit: int, offset: int) -> list[Row]:
    """Backups, newest first; their counts are NULL until they ended."""
    return all_rows(
        connection,
        f"""
            SELECT {_COLUMNS}, b.device_count, b.success_count, b.failed_count, b.timeout_count,
                b.cancelled_count
            FROM backups AS b LEFT JOIN backup_schedules AS s ON s.id = b.schedule_id
            ORDER BY b.created_at DESC, b.task_id LIMIT :limit OFFSET :offset
        """,
        limit=limit,
        offset=offset,
    )


def backup(connection: Connection, task_id: uuid.UUID) -> Row:
    """A backup with `counts` per status, joined executions included, and `is_ended`.

    Raises UnknownBackup.
    """
    counts = backup_counts(connection, task_id)
    row = first_row(
        connection,
        f"""
            SELECT {_COLUMNS} FROM backups AS b
            LEFT JOIN backup_schedules AS s ON s.id = b.schedule_id WHERE b.task_id = :task_id
        """,
        task_id=task_id,
    )
    assert row is not None, "backup_counts knows it"
    is_ended = not counts["queued"] and not counts["running"]
    return row | {"device_count": sum(counts.values()), "counts": counts, "is_ended": is_ended}


def is_backup_ended(connection: Connection, task_id: uuid.UUID) -> bool:
    """Whether nothing that the backup waits for is open; true for one that is not known."""
    return not connection.scalar(
        text("""
            SELECT EXISTS (SELECT FROM backup_devices AS b
                JOIN open_executions AS e ON e.id = b.execution_id WHERE b.task_id = :task_id)
        """),
        {"task_id": task_id},
    )


def backup_executions(
    connection: Connection, task_id: uuid.UUID, *, limit: int, offset: int
) -> list[Row]:
    """A backup's executions by device, those that it joined included, open and ended."""
    return all_rows(
        connection,
        f"""
            SELECT b.execution_id AS id, d.id AS device_id, d.name AS device_name, d.site,
                coalesce(l.status, o.status, 'running') AS status, l.reason, l.error_message,
                l.execution_time, coalesce(l.started_at, o.started_at) AS started_at,
                l.completed_at, l.config_id, l.config_size,
                coalesce(l.task_id, o.task_id) <> b.task_id AS is_joined
            FROM backup_devices AS b JOIN devices AS d ON d.id = b.device_id
            JOIN backups USING (task_id)
            LEFT JOIN open_executions AS o ON o.id = b.execution_id
            LEFT JOIN {ALL_ENDED} AS l ON l.id = b.execution_id
                AND l.created_at >= backups.created_at - interval '1 hour'
            WHERE b.task_id = :task_id ORDER BY d.name LIMIT :limit OFFSET :offset
        """,
        task_id=task_id,
        limit=limit,
        offset=offset,
    )


def joined_executions(connection: Connection, task_id: uuid.UUID) -> list[Row]:
    """Open executions of other backups that this one joined."""
    return all_rows(
        connection,
        """
            SELECT e.id, e.task_id, d.name AS device_name FROM backup_devices AS b
            JOIN open_executions AS e ON e.id = b.execution_id
            JOIN devices AS d ON d.id = b.device_id
            WHERE b.task_id = :task_id AND e.task_id <> b.task_id ORDER BY d.name
        """,
        task_id=task_id,
    )


def open_execution(connection: Connection, execution_id: uuid.UUID) -> Row | None:
    """An execution that waits or runs, with the fields of an ended one."""
    nothing = ", ".join(
        f"NULL AS {column}"
        for column in ("config_id", "reason", "execution_time", "error_message", "error_details",
                       "completed_at", "config_size", "git_commit_id")
    )  # fmt: skip
    return first_row(
        connection,
        f"""
            SELECT d.name AS device, d.address, s.name AS schedule, e.id, e.task_id, e.device_id,
                e.schedule_id, e.status, e.queued_at, e.started_at, e.queued_at AS created_at,
                e.not_before, e.deadline_at, e.site, e.platform, e.zone, e.trigger,
                jsonb_array_length(e.failed_tries) AS retry_count, {nothing},
                jsonb_build_object('failed_tries', e.failed_tries) AS extra_info
            FROM open_executions AS e JOIN devices AS d ON d.id = e.device_id
            LEFT JOIN backup_schedules AS s ON s.id = e.schedule_id WHERE e.id = :id
        """,
        id=execution_id,
    )
