"""How the night's duties went: one row each, which metrics and alerts read."""

import json
from collections.abc import Callable
from datetime import datetime

from sqlalchemy import Connection, Engine, text

#: The hours (of the configured time zone) in which the duties begin.
_NIGHT = (1, 2, 3, 4)


def record(engine: Engine, duty: str, run: Callable[[], dict[str, int]]) -> dict[str, int]:
    """Run the duty and write how it went; its error goes on to the caller."""
    _write(engine, "started_at = now(), ended_at = NULL", duty=duty)
    try:
        counts = run()
    except Exception as error:
        _write(engine, "ended_at = now(), error = :error", duty=duty, error=str(error)[:1000])
        raise
    _write(
        engine,
        "ended_at = now(), succeeded_at = now(), error = NULL, counts = CAST(:counts AS jsonb)",
        duty=duty,
        counts=json.dumps(counts),
    )
    return counts


def is_due(connection: Connection, duty: str, time_zone: str) -> bool:
    """In the night, once; at any hour where last night's is missing. One that failed: hourly."""
    return bool(
        connection.scalar(
            text("""
                SELECT coalesce(bool_or(started_at < now() - interval '1 hour' AND (
                    succeeded_at IS NULL OR succeeded_at < now() - interval '26 hours'
                    -- Also after a clock that had jumped ahead came back.
                    OR succeeded_at > now() + interval '1 hour'
                    OR (succeeded_at < now() - interval '20 hours'
                        AND extract(hour FROM now() AT TIME ZONE :time_zone) = ANY(:night)))
                    OR started_at > now() + interval '1 hour'), TRUE)
                FROM maintenance_runs WHERE duty = :duty
            """),
            {"duty": duty, "time_zone": time_zone, "night": list(_NIGHT)},
        )
    )


def done_until(connection: Connection, duty: str, part: str) -> datetime | None:
    """The time up to which a part of the duty is done."""
    moment: datetime | None = connection.scalar(
        text("""
            SELECT CAST(done_until ->> :part AS timestamptz)
            FROM maintenance_runs WHERE duty = :duty
        """),
        {"duty": duty, "part": part},
    )
    return moment


def set_done_until(connection: Connection, duty: str, part: str, moment: datetime) -> None:
    connection.execute(
        text("""
            INSERT INTO maintenance_runs AS m (duty, done_until)
            VALUES (:duty, jsonb_build_object(CAST(:part AS text), CAST(:moment AS timestamptz)))
            ON CONFLICT (duty) DO UPDATE SET done_until = m.done_until || excluded.done_until
        """),
        {"duty": duty, "part": part, "moment": moment},
    )


def _write(engine: Engine, assignments: str, **values: str) -> None:
    with engine.begin() as connection:
        connection.execute(
            text("INSERT INTO maintenance_runs (duty) VALUES (:duty) ON CONFLICT DO NOTHING"),
            {"duty": values["duty"]},
        )
        connection.execute(
            text(f"UPDATE maintenance_runs SET {assignments} WHERE duty = :duty"), values
        )
