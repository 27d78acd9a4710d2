"""Questions about schedules."""

from sqlalchemy import Connection

from exporter.queries.rows import Row, all_rows


def list_schedules(connection: Connection) -> list[Row]:
    """Schedules of the configuration file, by name."""
    return all_rows(
        connection,
        """
                SELECT id, name, cron, interval_seconds, time_zone, spread_seconds, selection,
                    second_round, is_active, paused_at, paused_by, paused_note, last_tick_at,
                    CASE WHEN is_active THEN next_tick_at END AS next_tick_at, missed_ticks
                FROM backup_schedules WHERE retired_at IS NULL ORDER BY name
            """,
    )
