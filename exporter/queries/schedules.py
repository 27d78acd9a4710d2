"""Questions about schedules."""

from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, text


def list_schedules(connection: Connection) -> Sequence[RowMapping]:
    """Schedules of the configuration file, by name."""
    return (
        connection.execute(
            text("""
                SELECT id, name, cron, interval_seconds, time_zone, spread_seconds, selection,
                    second_round, is_active, paused_at, paused_by, paused_note, last_tick_at,
                    CASE WHEN is_active THEN next_tick_at END AS next_tick_at, missed_ticks
                FROM backup_schedules WHERE retired_at IS NULL ORDER BY name
            """)
        )
        .mappings()
        .all()
    )
